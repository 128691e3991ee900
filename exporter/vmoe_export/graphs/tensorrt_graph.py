"""Turns the canonical graph into `PROFILE.tensorrt.onnx`: one setting of the router, for strongly typed TensorRT networks.

TensorRT takes plugins from the main graph only and their settings from attributes, so everything is written out there:
VmoeGates, VmoeRouteDispatch and VmoeCombine as nodes with the settings of one profile, all else in standard ops. These three
are functions of standard ops as well, so that a stock runtime runs the same file. TensorRT's parser prefers a plugin over a
function of its name from version 10.7 on; an older one takes the function even where the plugin is loaded.

A strongly typed network computes in the types that the graph says. The large products - linear layers, attention, MLPs and
experts - are in the type of the chosen precision. What they are added to stays float32: the residual stream with its layer
norms, and the head. So are the router and its gates, since a rounded gate may choose another expert. Every change of type is
a Cast; weights are cast from where they lie in the weights file, which TensorRT does once, when it builds an engine. Softmax
reads and writes the type of the products: casts around it would keep TensorRT from fusing attention, whose softmax is
float32 inside.

Shapes are constants but for the batch, and of the shape operators only the few that give a batch its class tokens are left.
All op types are on the list of TensorRT 10.1's ONNX parser, in the types used here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from vmoe_export.graphs.graph_description import explain, fix_profile
from vmoe_export.graphs.unfused_graph import unfuse
from vmoe_export.ops.functions import fixed_function_bodies
from vmoe_export.ops.onnx_lines import ONNX_TYPES
from vmoe_export.ops.table import DOMAIN, PLUGIN_ATTRIBUTES, ElementType
from vmoe_runtime.bundle.manifest import TensorRtPrecision
from vmoe_runtime.profiles import SETTINGS, Profile

_PRODUCT_TYPES: Mapping[TensorRtPrecision, ElementType] = {"fp32": "float", "fp16": "fp16", "bf16": "bf16"}


def tensorrt_graph(
    canonical: onnx.ModelProto, profile: Profile | None, precision: TensorRtPrecision, hidden_size: int
) -> onnx.ModelProto:
    """The graph of one profile.

    Args:
        canonical: what `vmoe_export.graphs.canonical_graph.canonical_graph` gives.
        profile: whose capacity, k and bpr become attributes; None for a dense ViT.
        precision: what the large products are computed in.
        hidden_size: D, the width of the model's attention.

    Returns:
        A model with the input `image`; the output `logits` or `features`, always float32; and `<block>/slot` (int32) and
        `<block>/weight` (float32) of each MoE layer. Weights are external data.
    """
    writer = _Writer(canonical.graph, _PRODUCT_TYPES[precision], hidden_size)
    capacities = iter(profile.slots if profile else ())
    for node in unfuse(canonical.graph):
        match node.op_type:
            case "VmoeLinear":
                writer.linear(node)
            case "VmoeDenseMlp":
                writer.dense_mlp(node)
            case "VmoeAttention":
                writer.attention(node)
            case "VmoeSparseMlp":
                assert profile is not None and profile.k is not None and profile.bpr is not None
                writer.sparse_mlp(node, {"capacity": next(capacities), "k": profile.k, "bpr": int(profile.bpr)})
            case _:
                writer.standard(node)
    model = onnx.ModelProto()
    model.CopyFrom(canonical)
    del model.graph.value_info[:]  # of blocks that are taken apart here, in another type
    del model.functions[:], model.graph.node[:], model.graph.initializer[:], model.graph.input[:]
    model.graph.input.extend(value for value in canonical.graph.input if value.name not in SETTINGS)
    del model.graph.output[:]
    for value in canonical.graph.output:
        # Plugins put out no bools, and slots say both.
        if not value.name.endswith("/kept"):
            model.graph.output.append(value)
    for value in model.graph.output:
        if value.name.endswith(("/expert", "/weight")):
            assert profile is not None and profile.k is not None
            value.name = value.name.replace("/expert", "/slot")
            value.type.tensor_type.shape.dim[2].dim_value = profile.k
    nodes = _needed(writer.nodes, [value.name for value in model.graph.output])
    used = {name for node in nodes for name in node.input}
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(tensor for name, tensor in writer.initializers.items() if name in used)
    if profile is not None:
        model.functions.extend(fixed_function_bodies(dispatched=writer.dispatched, combined=writer.product_type))
    else:
        standard = [opset for opset in model.opset_import if opset.domain != DOMAIN]
        del model.opset_import[:]
        model.opset_import.extend(standard)
    fix_profile(model, profile, precision)
    fixed = f"Fixed to profile {profile.name}. " if profile else ""
    plugins = "with the vmoe plugin, and any ONNX Runtime from 1.21 on" if profile else "and any ONNX Runtime from 1.21 on"
    explain(model, f"{fixed}For TensorRT from 10.7 on {plugins}.")
    return model


class _Writer:
    """The new graph as it grows: its nodes, and what type each value has that is not as it was in the canonical graph."""

    def __init__(self, canonical: onnx.GraphProto, product_type: ElementType, hidden_size: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers = {tensor.name: tensor for tensor in canonical.initializer if tensor.name not in SETTINGS}
        self.product_type = product_type
        self.dispatched = product_type
        self._hidden_size = hidden_size
        self._types: dict[str, ElementType] = {
            name: "bf16" for name, tensor in self.initializers.items() if tensor.data_type == onnx.TensorProto.BFLOAT16
        }
        self._casts: dict[tuple[str, ElementType], str] = {}

    def standard(self, node: onnx.NodeProto) -> None:
        """A standard op stays as it is: in float32."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [self._as(name, "float") if name in self._types else name for name in node.input]
        copy.name = node.name or node.output[0]
        self.nodes.append(copy)

    def linear(self, node: onnx.NodeProto) -> None:
        x, w, b = node.input
        self._linear(x, w, b, node.output[0])

    def dense_mlp(self, node: onnx.NodeProto) -> None:
        x, w1, b1, w2, b2 = node.input
        hidden = self._gelu(self._linear(x, w1, b1))
        self._linear(hidden, w2, b2, node.output[0])

    def attention(self, node: onnx.NodeProto) -> None:
        (heads,) = (attribute.i for attribute in node.attribute if attribute.name == "num_heads")
        size = self._hidden_size // heads
        place = node.output[0]
        # A zero copies a dimension, so that the batch is the only one that isn't a number.
        split = self._constant(f"{place}/split", np.array([0, 0, heads, size], np.int64))
        merge = self._constant(f"{place}/merge", np.array([0, 0, heads * size], np.int64))
        by_head = {}
        for name, value, order in zip("qkv", node.input, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True):
            parts = self._product("Reshape", [self._as_product(value), split], f"{place}/{name}_split")
            by_head[name] = self._product("Transpose", [parts], f"{place}/{name}_heads", perm=order)
        scale = self._as_product(self._constant(f"{place}/scale", np.array(1 / math.sqrt(size), np.float32)))
        scaled = self._product("Mul", [by_head["q"], scale], f"{place}/q_scaled")
        scores = self._product("MatMul", [scaled, by_head["k"]], f"{place}/scores")
        shares = self._product("Softmax", [scores], f"{place}/shares", axis=-1)
        mixed = self._product("MatMul", [shares, by_head["v"]], f"{place}/mixed")
        by_token = self._product("Transpose", [mixed], f"{place}/mixed_by_token", perm=[0, 2, 1, 3])
        self._product("Reshape", [by_token, merge], place)

    def sparse_mlp(self, node: onnx.NodeProto, setting: Mapping[str, int]) -> None:
        x, router, w1, b1, w2, b2 = node.input[:6]
        y, slot, weight = node.output
        place = router.removesuffix("/Router/dense/kernel")
        gates = f"{place}/gates"
        self._plugin("VmoeGates", [self._as(x, "float"), router], [gates], place, {})
        # A dispatcher that rounds to bfloat16 may as well move bfloat16. Where products are in a shorter type than float32,
        # what experts take and give is rounded to that type instead.
        rounds = self.product_type == "float" and any(a.name == "dispatch_bf16" and a.i for a in node.attribute)
        self.dispatched = "bf16" if rounds else self.product_type
        buf = f"{place}/buf"
        self._plugin("VmoeRouteDispatch", [gates, self._as(x, self.dispatched)], [slot, weight, buf], place, setting)
        self._types[buf] = self.dispatched
        hidden = self._gelu(self._linear(buf, w1, self._by_expert(b1)))
        out = self._linear(hidden, w2, self._by_expert(b2))
        if rounds:
            out = self._as(self._as(out, "bf16"), "float")
        self._plugin("VmoeCombine", [out, slot, weight], [y], place, {})
        self._types[y] = self.product_type

    def _linear(self, x: str, w: str, b: str, output: str = "") -> str:
        """x . w + b in the type of the products, where w is an initializer; with the output's name or one after w."""
        place = w.removesuffix("/kernel")
        product = self._product("MatMul", [self._as_product(x), self._as_product(w)], f"{place}/product")
        return self._product("Add", [product, self._as_product(b)], output or f"{place}/sum")

    def _gelu(self, x: str) -> str:
        return self._product("Gelu", [x], f"{x}/gelu", approximate="tanh")

    def _by_expert(self, bias: str) -> str:
        """A bias [E,D] as [E,1,D]: the same bytes."""
        tensor = onnx.TensorProto()
        tensor.CopyFrom(self.initializers[bias])
        tensor.name = f"{bias}/by_expert"
        tensor.dims[:] = [tensor.dims[0], 1, tensor.dims[1]]
        self.initializers[tensor.name] = tensor
        return tensor.name

    def _plugin(
        self, op: str, inputs: Sequence[str], outputs: Sequence[str], place: str, setting: Mapping[str, int]
    ) -> None:
        attributes: dict[str, Any] = {**setting, **PLUGIN_ATTRIBUTES}
        self.nodes.append(helper.make_node(op, inputs, outputs, f"{place}/{op}", domain=DOMAIN, **attributes))

    def _product(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self._types[output] = self.product_type
        return self._add(op, inputs, output, **attributes)

    def _add(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], output, **attributes))
        return output

    def _constant(self, name: str, value: np.ndarray) -> str:
        self.initializers[name] = numpy_helper.from_array(value, name)
        return name

    def _as_product(self, value: str) -> str:
        return self._as(value, self.product_type)

    def _as(self, value: str, wanted: ElementType) -> str:
        """The value in that type: itself, or the one Cast of it."""
        if self._types.get(value, "float") == wanted:
            return value
        if (value, wanted) not in self._casts:
            cast = self._add("Cast", [value], f"{value}/{wanted}", to=ONNX_TYPES[wanted])
            self._types[cast] = wanted
            self._casts[value, wanted] = cast
        return self._casts[value, wanted]


def _needed(nodes: Sequence[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes, in their order, that an output depends on: what only cut the settings into layers goes."""
    wanted = set(outputs)
    kept = []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]
