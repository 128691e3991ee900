"""The peers' ONNX graphs: a dense ViT, and a V-MoE with a product per expert, written node by node.

They share no code with the exporter, so they stay the same when its graphs change. Shapes are static, and queries are scaled
in the weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper
from safetensors import safe_open

from vmoe_export.model.model_config import ModelConfig

Array = np.ndarray[Any, np.dtype[Any]]
Attention = Literal["separate", "fused", "contrib"]
"""Products for Q, K and V each; one product; or ONNX Runtime's op com.microsoft.Attention."""

_OPSET, _IR_VERSION = 20, 10
_MLP = ("Dense_0/kernel", "Dense_0/bias", "Dense_1/kernel", "Dense_1/bias")
_ALIGNMENT = 4096  # a page, so that every tensor can be mapped


class Weights:
    """A growing file of float32 tensors that all graphs of a model point into; those of an earlier run are used again.

    Args:
        path: the file; its index lies beside it as `<path>.json`.
        bundle: where the model's float32 tensors are.
    """

    def __init__(self, path: Path, bundle: Path) -> None:
        self._path, self._index_path = path, path.with_name(f"{path.name}.json")
        whole = path.exists() and self._index_path.exists()
        self._index: dict[str, dict[str, Any]] = json.loads(self._index_path.read_text()) if whole else {}
        self._bundle: Any = safe_open(bundle / "weights.safetensors", framework="np")

    def stored(self, name: str) -> Array:
        """A tensor of the model by its official name."""
        tensor: Array = self._bundle.get_tensor(name)
        return tensor

    def add(self, name: str, make: Callable[[], Array]) -> onnx.TensorProto:
        """An initializer that points to the tensor `name`, which `make` gives where the file doesn't have it yet."""
        if name not in self._index:
            tensor = np.ascontiguousarray(make(), np.float32)
            with self._path.open("ab") as file:
                file.write(bytes(-file.tell() % _ALIGNMENT))
                self._index[name] = {"offset": file.tell(), "length": tensor.nbytes, "dims": tensor.shape}
                file.write(tensor.data)
        place = self._index[name]
        proto = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=place["dims"], data_location=TensorProto.EXTERNAL)
        for key, value in (("location", self._path.name), ("offset", place["offset"]), ("length", place["length"])):
            proto.external_data.add(key=key, value=str(value))
        return proto

    def save(self) -> None:
        """Writes the index, once the graphs that use the tensors are written."""
        self._index_path.write_text(json.dumps(self._index))


def write_graph(
    path: Path, config: ModelConfig, batch: int, weights: Weights, attention: Attention, capacity: int = 0, k: int = 0
) -> None:
    """Writes a model: `image` float32[N,H,W,C] -> `logits` float32[N, classes].

    A V-MoE has a fixed capacity (places per expert and image) and K, Batch Priority Routing, and routes each image alone.
    """
    graph = _Graph(config, batch, weights, attention)
    x = graph.embedding()
    for i in range(config.num_layers):
        block = f"Encoder/encoderblock_{i}"
        x = graph.attention(block, x)
        x = graph.moe(block, x, capacity, k) if config.moe and i in config.moe.layers else graph.mlp_block(block, x)
    graph.nodes.append(helper.make_node("Identity", [graph.head(x)], ["logits"]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, *config.image_size, config.channels])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, config.num_classes])
    whole = helper.make_graph(graph.nodes, "peer", [image], [logits], list(graph.initializers.values()))
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)]
    path.write_bytes(helper.make_model(whole, opset_imports=opsets, ir_version=_IR_VERSION).SerializeToString())
    weights.save()


class _Graph:
    """Nodes in the making; every method returns the name of its result."""

    def __init__(self, config: ModelConfig, batch: int, weights: Weights, attention: Attention) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self._config, self._batch, self._weights, self._attention = config, batch, weights, attention
        self._tokens, self._width, self._heads = config.num_tokens, config.hidden_size, config.num_heads

    def op(self, op_type: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        return self.ops(op_type, 1, *inputs, domain=domain, **attributes)[0]

    def ops(self, op_type: str, outputs: int, *inputs: str, domain: str = "", **attributes: Any) -> list[str]:
        name = f"{op_type}_{len(self.nodes)}"
        results = [f"{name}:{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, results, name, domain=domain, **attributes))
        return results

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        name = f"constant_{len(self.initializers)}"
        self.initializers[name] = onnx.numpy_helper.from_array(np.asarray(values, dtype), name)
        return name

    def tensor(self, name: str, *shape: int) -> str:
        """A stored tensor under its official name, in another shape where one is given."""
        return self.derived(name, lambda: self._weights.stored(name).reshape(shape or self._weights.stored(name).shape))

    def derived(self, name: str, make: Callable[[], Array]) -> str:
        if name not in self.initializers:
            self.initializers[name] = self._weights.add(name, make)
        return name

    def reshape(self, x: str, *shape: int) -> str:
        return self.op("Reshape", x, self.constant(shape))

    def transpose(self, x: str, *perm: int) -> str:
        return self.op("Transpose", x, perm=perm)

    def dense(self, x: str, kernel: str, bias: str) -> str:
        return self.op("Add", self.op("MatMul", x, kernel), bias)

    def norm(self, name: str, x: str) -> str:
        weights = self.tensor(f"{name}/scale"), self.tensor(f"{name}/bias")
        return self.op("LayerNormalization", x, *weights, axis=-1, epsilon=1e-6)

    def embedding(self) -> str:
        (rows, columns), (height, width), channels = self._config.grid, self._config.patch_size, self._config.channels
        patch = height * width * channels
        x = self.reshape("image", self._batch, rows, height, columns, width, channels)
        x = self.reshape(self.transpose(x, 0, 1, 3, 2, 4, 5), self._batch, rows * columns, patch)
        x = self.dense(x, self.tensor("embedding/kernel", patch, self._width), self.tensor("embedding/bias"))
        token = self.op("Expand", self.tensor("cls"), self.constant([self._batch, 1, self._width]))
        return self.op("Add", self.op("Concat", token, x, axis=1), self.tensor("Encoder/posembed_input/pos_embedding"))

    def attention(self, block: str, x: str) -> str:
        name, size = f"{block}/SelfAttention", self._width // self._heads
        normed, by_head = self.norm(f"{block}/LayerNorm_0", x), (self._batch, self._tokens, self._heads, size)
        if self._attention == "contrib":
            weights = self._joined(name, 1.0)
            mixed = self.op("Attention", normed, *weights, domain="com.microsoft", num_heads=self._heads)
        else:
            if self._attention == "fused":
                projected = self.dense(normed, *self._joined(name, size**-0.5))
                projected = self.transpose(self.reshape(projected, *by_head[:2], 3, *by_head[2:]), 2, 0, 3, 1, 4)
                parts = self.ops("Split", 3, projected, axis=0, num_outputs=3)
                query, key, value = (self.op("Squeeze", part, self.constant([0])) for part in parts)
                key = self.transpose(key, 0, 1, 3, 2)
            else:
                scales = {"query": size**-0.5, "key": 1.0, "value": 1.0}
                query, key, value = (
                    self.transpose(self.reshape(self.dense(normed, *self._projection(name, which, scale)), *by_head), *perm)
                    for (which, scale), perm in zip(scales.items(), ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)), strict=True)
                )
            scores = self.op("Softmax", self.op("MatMul", query, key), axis=-1)
            mixed = self.transpose(self.op("MatMul", scores, value), 0, 2, 1, 3)
            mixed = self.reshape(mixed, self._batch, self._tokens, self._width)
        out = self.tensor(f"{name}/out/kernel", self._width, self._width), self.tensor(f"{name}/out/bias")
        return self.op("Add", x, self.dense(mixed, *out))

    def _projection(self, name: str, which: str, scale: float) -> tuple[str, str]:
        """Kernel [D,D] and bias [D] of the query, key or value."""

        def scaled(what: str, *shape: int) -> str:
            stored = f"{name}/{which}/{what}"
            return self.derived(stored, lambda: self._weights.stored(stored).reshape(shape) * np.float32(scale))

        return scaled("kernel", self._width, self._width), scaled("bias", self._width)

    def _joined(self, name: str, query_scale: float) -> tuple[str, str]:
        """Kernel [D,3D] and bias [3D] of query, key and value in one."""

        def join(what: str, *shape: int) -> Array:
            parts = [self._weights.stored(f"{name}/{which}/{what}").reshape(shape) for which in ("query", "key", "value")]
            return np.concatenate([parts[0] * np.float32(query_scale), *parts[1:]], axis=-1)

        prefix = f"{name}/joined-{query_scale:g}"
        kernel = self.derived(f"{prefix}/kernel", lambda: join("kernel", self._width, self._width))
        return kernel, self.derived(f"{prefix}/bias", lambda: join("bias", self._width))

    def mlp_block(self, block: str, x: str) -> str:
        weights = (
            self.tensor(f"{block}/Mlp/{layer}/{what}") for layer in ("Dense_0", "Dense_1") for what in ("kernel", "bias")
        )
        return self.op("Add", x, self.mlp(self.norm(f"{block}/LayerNorm_1", x), *weights))

    def mlp(self, x: str, kernel0: str, bias0: str, kernel1: str, bias1: str) -> str:
        hidden = self.op("Gelu", self.dense(x, kernel0, bias0), approximate="tanh")
        return self.dense(hidden, kernel1, bias1)

    def moe(self, block: str, x: str, capacity: int, k: int) -> str:
        """Every expert takes its best tokens with a TopK, and adds its weighted results to the residual."""
        assert self._config.moe is not None
        experts, places, all_tokens = self._config.moe.num_experts, min(capacity, self._tokens), self._batch * self._tokens
        normed = self.norm(f"{block}/LayerNorm_1", x)
        source, weight = self._routing(normed, f"{block}/Moe/Router/dense/kernel", experts, places, k)
        rows = self.op("Gather", self.reshape(normed, all_tokens, self._width), source, axis=0)
        outs = []
        for e, part in enumerate(self.ops("Split", experts, rows, axis=0, num_outputs=experts)):
            names = [f"{block}/Moe/Mlp/{n}" for n in _MLP]
            own = (self.derived(f"{n}/{e}", lambda n=n, e=e: self._weights.stored(n)[e]) for n in names)
            outs.append(self.mlp(part, *own))
        weighted = self.op("Mul", self.op("Concat", *outs, axis=0), self.reshape(weight, experts * self._batch * places, 1))
        index, flat = self.reshape(source, -1, 1), self.reshape(x, all_tokens, self._width)
        flat = self.op("ScatterND", flat, index, weighted, reduction="add")
        return self.reshape(flat, self._batch, self._tokens, self._width)

    def _routing(self, x: str, router: str, experts: int, places: int, k: int) -> tuple[str, str]:
        """The flat token [E*N*c] of every place and its gate [E,N,c], 0 where the place stays empty."""
        gates = self.op("Softmax", self.op("MatMul", x, self.tensor(router)), axis=-1)
        best, chosen = self.ops("TopK", 2, gates, self.constant([k]), axis=-1)
        if k > 1:
            best = self.op("Slice", best, *(self.constant([at]) for at in (0, 1, 2)))
        # Later choices come after all earlier ones. A best gate is at least 1/E, so a power of two below that keeps them
        # apart without rounding.
        later = 0.5 ** (math.ceil(math.log2(experts)) + 1)
        turns = self.constant(np.tile([later**choice for choice in range(k)], (self._batch, self._tokens, 1)), np.float32)
        nothing = self.constant(np.zeros((self._batch, self._tokens, experts)), np.float32)
        turn = self.op("ScatterElements", nothing, chosen, turns, axis=2)
        taken, token = self.ops(
            "TopK", 2, self.transpose(self.op("Mul", turn, best), 0, 2, 1), self.constant([places]), axis=-1
        )
        gate, zero = self.op("GatherElements", self.transpose(gates, 0, 2, 1), token, axis=2), self.constant(0, np.float32)
        weight = self.transpose(self.op("Where", self.op("Greater", taken, zero), gate, zero), 1, 0, 2)
        base = self.constant(np.arange(self._batch).reshape(self._batch, 1, 1) * self._tokens)
        return self.reshape(self.transpose(self.op("Add", token, base), 1, 0, 2), -1), weight

    def head(self, x: str) -> str:
        first = self.op("Gather", x, self.constant(0), axis=1)  # the other tokens' results are not used
        normed = self.norm("Encoder/encoder_norm", first)
        return self.dense(normed, self.tensor("head/kernel"), self.tensor("head/bias"))
