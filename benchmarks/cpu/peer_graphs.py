"""The peers' ONNX graphs: a dense ViT, and a V-MoE as a careful user exports it, written node by node.

They share no code with the exporter, so they stay the same when its graphs change. Shapes are static, Q, K and V scaled
in the weights, and every op is the best one that ONNX Runtime has for it; which form that is was measured (`Form`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import onnx
from onnx import TensorProto, helper

from cpu.peer_weights import PeerWeights
from vmoe_export.model.model_config import ModelConfig

Array = np.ndarray[Any, np.dtype[Any]]

_OPSET = 20
_IR_VERSION = 10
_EPSILON = 1e-6


@dataclass(frozen=True)
class Form:
    """One way to write down the same layers.

    Attributes:
        attention: "separate" products for Q, K and V; one "fused" product; or the `contrib` op com.microsoft.Attention.
        gelu: the "standard" op of opset 20, or the "contrib" op com.microsoft.FastGelu with the bias inside.
    """

    attention: Literal["separate", "fused", "contrib"]
    gelu: Literal["standard", "contrib"]

    @property
    def name(self) -> str:
        """Such as `fused-standard`."""
        return f"{self.attention}-{self.gelu}"


FORMS = tuple(Form(attention, gelu) for attention in ("separate", "fused", "contrib") for gelu in ("standard", "contrib"))
STANDARD_FORMS = tuple(form for form in FORMS if "contrib" not in (form.attention, form.gelu))


class TensorSource(Protocol):
    """Tensors by official parameter name."""

    def __getitem__(self, name: str) -> Array:
        """The float32 tensor."""


class _Graph:
    """Nodes in the making; every method returns the name of its result."""

    def __init__(self, weights: PeerWeights, tensors: TensorSource) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.weights = weights
        self._tensors = tensors
        self.scope = ""

    def op(self, op_type: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        return self.ops(op_type, 1, *inputs, domain=domain, **attributes)[0]

    def ops(self, op_type: str, outputs: int, *inputs: str, domain: str = "", **attributes: Any) -> list[str]:
        name = f"{self.scope}/{op_type}_{len(self.nodes)}"
        results = [f"{name}:{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, results, name, domain=domain, **attributes))
        return results

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        array = np.asarray(values, dtype)
        name = f"constant_{len(self.initializers)}"
        self.initializers[name] = onnx.numpy_helper.from_array(array, name)
        return name

    def tensor(self, name: str, *shape: int) -> str:
        """A stored tensor under its official name, in another shape where one is given."""
        return self.derived(name, lambda tensors: tensors[name].reshape(shape or tensors[name].shape))

    def derived(self, name: str, make: Any) -> str:
        """A tensor that is computed from stored ones."""
        if name not in self.initializers:
            self.initializers[name] = self.weights.add(name, lambda: make(self._tensors))
        return name

    def reshape(self, x: str, *shape: int) -> str:
        return self.op("Reshape", x, self.constant(shape))


def write_dense(
    config: ModelConfig, batch: int, form: Form, tensors: TensorSource, weights: PeerWeights, path: Path
) -> None:
    """Writes a dense ViT: `image` float32[N,H,W,C] -> `logits` float32[N, classes]."""
    graph = _Graph(weights, tensors)
    x = _embedding(graph, config, batch)
    for i in range(config.num_layers):
        x = _attention_block(graph, config, batch, form, f"Encoder/encoderblock_{i}", x)
        x = _mlp_block(graph, config, form, f"Encoder/encoderblock_{i}", x)
    _write(graph, config, batch, _head(graph, config, batch, x), path)


def write_sparse(
    config: ModelConfig,
    batch: int,
    form: Form,
    capacity: int,
    k: int,
    tensors: TensorSource,
    weights: PeerWeights,
    path: Path,
) -> None:
    """Writes a V-MoE with a fixed capacity (places per expert and image) and K; BPR, each image routed alone."""
    assert config.moe is not None
    graph = _Graph(weights, tensors)
    x = _embedding(graph, config, batch)
    for i in range(config.num_layers):
        block = f"Encoder/encoderblock_{i}"
        x = _attention_block(graph, config, batch, form, block, x)
        if i in config.moe.layers:
            x = _moe_block(graph, config, batch, form, block, x, capacity, k)
        else:
            x = _mlp_block(graph, config, form, block, x)
    _write(graph, config, batch, _head(graph, config, batch, x), path)


def _embedding(graph: _Graph, config: ModelConfig, batch: int) -> str:
    graph.scope = "embedding"
    (rows, columns), (height, width), channels = config.grid, config.patch_size, config.channels
    x = graph.reshape("image", batch, rows, height, columns, width, channels)
    x = graph.op("Transpose", x, perm=[0, 1, 3, 2, 4, 5])
    x = graph.reshape(x, batch, rows * columns, height * width * channels)
    x = graph.op("MatMul", x, graph.tensor("embedding/kernel", height * width * channels, config.hidden_size))
    x = graph.op("Add", x, graph.tensor("embedding/bias"))
    token = graph.op("Expand", graph.tensor("cls"), graph.constant([batch, 1, config.hidden_size]))
    x = graph.op("Concat", token, x, axis=1)
    return graph.op("Add", x, graph.tensor("Encoder/posembed_input/pos_embedding"))


def _layer_norm(graph: _Graph, name: str, x: str) -> str:
    return graph.op(
        "LayerNormalization", x, graph.tensor(f"{name}/scale"), graph.tensor(f"{name}/bias"), axis=-1, epsilon=_EPSILON
    )


def _attention_block(graph: _Graph, config: ModelConfig, batch: int, form: Form, block: str, x: str) -> str:
    graph.scope = f"{block}/attention"
    normed = _layer_norm(graph, f"{block}/LayerNorm_0", x)
    name, width, heads, tokens = f"{block}/SelfAttention", config.hidden_size, config.num_heads, config.num_tokens
    size = width // heads
    if form.attention == "contrib":
        joined = _joined_projection(graph, config, name, 1.0)
        mixed = graph.op("Attention", normed, *joined, domain="com.microsoft", num_heads=heads)
    else:
        if form.attention == "fused":
            kernel, bias = _joined_projection(graph, config, name, 1 / math.sqrt(size))
            projected = graph.op("Add", graph.op("MatMul", normed, kernel), bias)
            projected = graph.reshape(projected, batch, tokens, 3, heads, size)
            projected = graph.op("Transpose", projected, perm=[2, 0, 3, 1, 4])
            parts = graph.ops("Split", 3, projected, axis=0, num_outputs=3)
            query, key, value = (graph.op("Squeeze", part, graph.constant([0])) for part in parts)
            key = graph.op("Transpose", key, perm=[0, 1, 3, 2])
        else:
            query, key, value = (
                graph.op("Transpose", graph.reshape(projected, batch, tokens, heads, size), perm=perm)
                for projected, perm in (
                    (_projection(graph, config, name, "query", 1 / math.sqrt(size), normed), [0, 2, 1, 3]),
                    (_projection(graph, config, name, "key", 1.0, normed), [0, 2, 3, 1]),
                    (_projection(graph, config, name, "value", 1.0, normed), [0, 2, 1, 3]),
                )
            )
        scores = graph.op("Softmax", graph.op("MatMul", query, key), axis=-1)
        mixed = graph.op("Transpose", graph.op("MatMul", scores, value), perm=[0, 2, 1, 3])
        mixed = graph.reshape(mixed, batch, tokens, width)
    y = graph.op("MatMul", mixed, graph.tensor(f"{name}/out/kernel", width, width))
    return graph.op("Add", x, graph.op("Add", y, graph.tensor(f"{name}/out/bias")))


def _projection(graph: _Graph, config: ModelConfig, name: str, which: str, scale: float, x: str) -> str:
    width = config.hidden_size
    factor = np.float32(scale)
    kernel = graph.derived(f"{name}/{which}/kernel", lambda t: t[f"{name}/{which}/kernel"].reshape(width, width) * factor)
    bias = graph.derived(f"{name}/{which}/bias", lambda t: t[f"{name}/{which}/bias"].reshape(width) * factor)
    return graph.op("Add", graph.op("MatMul", x, kernel), bias)


def _joined_projection(graph: _Graph, config: ModelConfig, name: str, query_scale: float) -> list[str]:
    """Kernel [D, 3D] and bias [3D] of query, key and value in one."""
    width = config.hidden_size

    def join(tensors: TensorSource, what: str, *shape: int) -> Array:
        parts = [tensors[f"{name}/{which}/{what}"].reshape(shape) for which in ("query", "key", "value")]
        return np.concatenate([parts[0] * np.float32(query_scale), *parts[1:]], axis=-1)

    suffix = f"joined-{query_scale:g}"
    return [
        graph.derived(f"{name}/{suffix}/kernel", lambda tensors: join(tensors, "kernel", width, width)),
        graph.derived(f"{name}/{suffix}/bias", lambda tensors: join(tensors, "bias", width)),
    ]


def _mlp_block(graph: _Graph, config: ModelConfig, form: Form, block: str, x: str) -> str:
    graph.scope = f"{block}/mlp"
    normed = _layer_norm(graph, f"{block}/LayerNorm_1", x)
    names = (f"{block}/Mlp/{layer}/{what}" for layer in ("Dense_0", "Dense_1") for what in ("kernel", "bias"))
    return graph.op("Add", x, _mlp(graph, form, normed, *(graph.tensor(name) for name in names)))


def _mlp(graph: _Graph, form: Form, x: str, kernel0: str, bias0: str, kernel1: str, bias1: str) -> str:
    hidden = graph.op("MatMul", x, kernel0)
    if form.gelu == "contrib":
        hidden = graph.op("FastGelu", hidden, bias0, domain="com.microsoft")
    else:
        hidden = graph.op("Gelu", graph.op("Add", hidden, bias0), approximate="tanh")
    return graph.op("Add", graph.op("MatMul", hidden, kernel1), bias1)


def _moe_block(graph: _Graph, config: ModelConfig, batch: int, form: Form, block: str, x: str, capacity: int, k: int) -> str:
    """A MoE layer: every expert takes its best tokens with a TopK, and adds its weighted results to the residual."""
    assert config.moe is not None
    experts, tokens, width, hidden = config.moe.num_experts, config.num_tokens, config.hidden_size, config.moe.mlp_dim
    places = min(capacity, tokens)
    graph.scope = f"{block}/route"
    normed = _layer_norm(graph, f"{block}/LayerNorm_1", x)
    source, weight = _routing(graph, batch, experts, tokens, places, k, normed, f"{block}/Moe/Router/dense/kernel")
    graph.scope = f"{block}/dispatch"
    rows = graph.op("Gather", graph.reshape(normed, batch * tokens, width), source, axis=0)
    parts = graph.ops("Split", experts, rows, axis=0, num_outputs=experts)
    outs = []
    for e, part in enumerate(parts):
        graph.scope = f"{block}/expert_{e}"
        shapes = {"Dense_0/kernel": (width, hidden), "Dense_0/bias": (hidden,), "Dense_1/kernel": (hidden, width)}
        shapes["Dense_1/bias"] = (width,)
        outs.append(_mlp(graph, form, part, *(_expert_tensor(graph, f"{block}/Moe/Mlp/{n}", e) for n in shapes)))
    graph.scope = f"{block}/combine"
    weighted = graph.op("Mul", graph.op("Concat", *outs, axis=0), graph.reshape(weight, experts * batch * places, 1))
    index = graph.reshape(source, experts * batch * places, 1)
    flat = graph.op("ScatterND", graph.reshape(x, batch * tokens, width), index, weighted, reduction="add")
    return graph.reshape(flat, batch, tokens, width)


def _expert_tensor(graph: _Graph, name: str, expert: int) -> str:
    return graph.derived(f"{name}/{expert}", lambda tensors: tensors[name][expert])


def _routing(
    graph: _Graph, batch: int, experts: int, tokens: int, places: int, k: int, x: str, router: str
) -> tuple[str, str]:
    """The flat token [E*N*c] of every place and its gate [E,N,c], 0 where the place stays empty."""
    gates = graph.op("Softmax", graph.op("MatMul", x, graph.tensor(router)), axis=-1)
    chosen_gate, chosen = graph.ops("TopK", 2, gates, graph.constant([k]), axis=-1)
    best = (
        graph.op("Slice", chosen_gate, graph.constant([0]), graph.constant([1]), graph.constant([2]))
        if k > 1
        else chosen_gate
    )
    # Later choices come after all earlier ones. A best gate is at least 1/E, so a power of two below that keeps them
    # apart without rounding.
    later = 0.5 ** (math.ceil(math.log2(experts)) + 1)
    turns = np.tile([later**choice for choice in range(k)], (batch, tokens, 1))
    nothing = graph.constant(np.zeros((batch, tokens, experts)), np.float32)
    turn = graph.op("ScatterElements", nothing, chosen, graph.constant(turns, np.float32), axis=2)
    key = graph.op("Transpose", graph.op("Mul", turn, best), perm=[0, 2, 1])
    taken, token = graph.ops("TopK", 2, key, graph.constant([places]), axis=-1)
    gate = graph.op("GatherElements", graph.op("Transpose", gates, perm=[0, 2, 1]), token, axis=2)
    zero = graph.constant(0, np.float32)
    weight = graph.op("Where", graph.op("Greater", taken, zero), gate, zero)
    base = graph.constant(np.arange(batch).reshape(batch, 1, 1) * tokens)
    source = graph.op("Transpose", graph.op("Add", token, base), perm=[1, 0, 2])
    return graph.reshape(source, experts * batch * places), graph.op("Transpose", weight, perm=[1, 0, 2])


def _head(graph: _Graph, config: ModelConfig, batch: int, x: str) -> str:
    graph.scope = "head"
    first = graph.op("Gather", x, graph.constant(0), axis=1)  # the other tokens' results are not used
    normed = _layer_norm(graph, "Encoder/encoder_norm", first)
    return graph.op("Add", graph.op("MatMul", normed, graph.tensor("head/kernel")), graph.tensor("head/bias"))


def _write(graph: _Graph, config: ModelConfig, batch: int, logits: str, path: Path) -> None:
    graph.nodes.append(helper.make_node("Identity", [logits], ["logits"]))
    height, width = config.image_size
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, height, width, config.channels])
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, config.num_classes])
    model = helper.make_model(
        helper.make_graph(graph.nodes, "peer", [image], [output], list(graph.initializers.values())),
        opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)],
        ir_version=_IR_VERSION,
    )
    path.write_bytes(model.SerializeToString())
    graph.weights.save()
