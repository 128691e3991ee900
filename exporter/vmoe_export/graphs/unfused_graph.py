"""Writes the encoder blocks of a canonical graph as the ops that they fuse, for runtimes whose own fusions do better."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import onnx
from onnx import helper

from vmoe_export.ops.table import DOMAIN, OPS
from vmoe_runtime.profiles import OFFICIAL_SETTINGS

_EPSILON = 1e-6
_WEIGHTS = ("w1", "b1", "w2", "b2")


def unfuse(canonical: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes of the graph without blocks.

    VmoeAttentionBlock becomes LayerNormalization, VmoeLinear, VmoeAttention and Add; VmoeMlpBlock LayerNormalization,
    VmoeDenseMlp and Add; and VmoeRouterBlock with the VmoeExpertBlock that takes its routes LayerNormalization,
    VmoeSparseMlp and Add. Weights are float32 or bfloat16. Values keep their names.
    """
    routers = {node.output[0]: node for node in canonical.node if node.op_type == "VmoeRouterBlock"}
    nodes: list[onnx.NodeProto] = []
    for node in canonical.node:
        match node.op_type:
            case "VmoeAttentionBlock":
                nodes += _attention(node)
            case "VmoeMlpBlock":
                nodes += _mlp(node)
            case "VmoeRouterBlock":
                pass  # part of its VmoeExpertBlock
            case "VmoeExpertBlock":
                nodes += _sparse_mlp(node, routers)
            case _:
                nodes.append(node)
    return nodes


def _attention(node: onnx.NodeProto) -> Iterable[onnx.NodeProto]:
    given, y = _inputs(node), node.output[0]
    normed, norm = _layer_norm(node)
    yield norm
    for which in "qkv":
        yield _vmoe("VmoeLinear", [normed, given[f"w{which}"], given[f"b{which}"]], [f"{y}/{which}"])
    yield _vmoe(
        "VmoeAttention", [f"{y}/{which}" for which in "qkv"], [f"{y}/mixed"], num_heads=_attribute(node, "num_heads")
    )
    yield _vmoe("VmoeLinear", [f"{y}/mixed", given["wo"], given["bo"]], [f"{y}/out"])
    yield _residual(node, f"{y}/out")


def _mlp(node: onnx.NodeProto) -> Iterable[onnx.NodeProto]:
    given, y = _inputs(node), node.output[0]
    normed, norm = _layer_norm(node)
    yield norm
    yield _vmoe("VmoeDenseMlp", [normed, *(given[name] for name in _WEIGHTS)], [f"{y}/out"])
    yield _residual(node, f"{y}/out")


def _sparse_mlp(node: onnx.NodeProto, routers: dict[str, onnx.NodeProto]) -> Iterable[onnx.NodeProto]:
    given, y = _inputs(node), node.output[0]
    router = routers[given["slot"]]
    routing = _inputs(router)
    normed, norm = _layer_norm(node)
    yield norm
    yield _vmoe(
        "VmoeSparseMlp",
        [
            normed,
            routing["router"],
            *(given[name] for name in _WEIGHTS),
            *(routing[name] for name in OFFICIAL_SETTINGS),
        ],
        [f"{y}/out", *router.output[:2]],
        dispatch_bf16=_attribute(node, "dispatch_bf16"),
    )
    yield _residual(node, f"{y}/out")


def _inputs(node: onnx.NodeProto) -> dict[str, str]:
    """The node's inputs by the names of the table."""
    return dict(zip((value.name for value in OPS[node.op_type].inputs), node.input, strict=False))


def _attribute(node: onnx.NodeProto, name: str) -> int:
    return next(int(attribute.i) for attribute in node.attribute if attribute.name == name)


def _layer_norm(node: onnx.NodeProto) -> tuple[str, onnx.NodeProto]:
    given = _inputs(node)
    normed = f"{node.output[0]}/normed"
    inputs = [given[name] for name in ("x", "ln_scale", "ln_bias")]
    return normed, helper.make_node("LayerNormalization", inputs, [normed], axis=-1, epsilon=_EPSILON)


def _residual(node: onnx.NodeProto, out: str) -> onnx.NodeProto:
    return helper.make_node("Add", [_inputs(node)["x"], out], [node.output[0]])


def _vmoe(op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, outputs, domain=DOMAIN, **attributes)
