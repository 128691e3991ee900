"""The ONNX graph of the dense ViT for the peer runtimes, written node by node.

The module shares no code with the exporter, so changes to the exporter's graphs do not affect the peers. All shapes are
static. The scale of the attention queries is folded into the query weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors import safe_open

from vmoe_export.model.model_config import ModelConfig

Array = np.ndarray[Any, np.dtype[Any]]
Attention = Literal["separate", "fused", "contrib"]
"""One product each for Q, K and V; one product for all; or ONNX Runtime's op com.microsoft.Attention."""

_OPSET, _IR_VERSION = 20, 10
_PARTS = ("query", "key", "value")
_MLP = ("Dense_0/kernel", "Dense_0/bias", "Dense_1/kernel", "Dense_1/bias")


def write_graph(bundle: Path, config: ModelConfig, batch: int, attention: Attention) -> onnx.ModelProto:
    """Return the ONNX graph of a dense ViT with the weights of a float32 bundle.

    The input is `image` float32[N,H,W,C], and the output is `logits` float32[N, classes].
    """
    graph = _Graph(bundle, config, batch, attention)
    x = graph.embedding()
    for i in range(config.num_layers):
        block = f"Encoder/encoderblock_{i}"
        x = graph.attention(block, x)
        normed = graph.norm(f"{block}/LayerNorm_1", x)
        x = graph.op("Add", x, graph.mlp(normed, *(graph.weight(f"{block}/Mlp/{name}") for name in _MLP)))
    graph.nodes.append(helper.make_node("Identity", [graph.head(x)], ["logits"]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, *config.image_size, config.channels])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, config.num_classes])
    whole = helper.make_graph(graph.nodes, "peer", [image], [logits], graph.initializers)
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(whole, opset_imports=opsets, ir_version=_IR_VERSION)


class _Graph:
    """A graph under construction. Methods that add nodes return the names of the nodes' outputs."""

    def __init__(self, bundle: Path, config: ModelConfig, batch: int, attention: Attention) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._weights: Any = safe_open(bundle / "weights.safetensors", framework="np")
        self._config, self._batch, self._attention = config, batch, attention
        self._tokens, self._width, self._heads = config.num_tokens, config.hidden_size, config.num_heads

    def op(self, op_type: str, *inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node, and return the name of its output, or a list of names if it has several outputs.

        The node's inputs are results of other nodes, or constants.
        """
        name = f"{op_type}_{len(self.nodes)}"
        names, results = list(map(self._stored, inputs)), [f"{name}:{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op_type, names, results, name, **attributes))
        return results[0] if outputs == 1 else results

    def _stored(self, value: Any) -> str:
        if isinstance(value, str):
            return value
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def weight(self, name: str, *shape: int) -> Array:
        """Return the model's weight tensor with the official name `name`, reshaped to `shape` if it is passed."""
        tensor: Array = self._weights.get_tensor(name)
        return tensor.reshape(shape or tensor.shape)

    def reshape(self, x: str, *shape: int) -> str:
        return self.op("Reshape", x, shape)

    def transpose(self, x: str, *perm: int) -> str:
        return self.op("Transpose", x, perm=perm)

    def dense(self, x: str, kernel: Array, bias: Array) -> str:
        return self.op("Add", self.op("MatMul", x, kernel), bias)

    def norm(self, name: str, x: str) -> str:
        weights = self.weight(f"{name}/scale"), self.weight(f"{name}/bias")
        return self.op("LayerNormalization", x, *weights, axis=-1, epsilon=1e-6)

    def embedding(self) -> str:
        (rows, columns), (height, width), channels = self._config.grid, self._config.patch_size, self._config.channels
        patch = height * width * channels
        x = self.reshape("image", self._batch, rows, height, columns, width, channels)
        x = self.reshape(self.transpose(x, 0, 1, 3, 2, 4, 5), self._batch, rows * columns, patch)
        x = self.dense(x, self.weight("embedding/kernel", patch, self._width), self.weight("embedding/bias"))
        token = np.repeat(self.weight("cls"), self._batch, axis=0)
        return self.op("Add", self.op("Concat", token, x, axis=1), self.weight("Encoder/posembed_input/pos_embedding"))

    def attention(self, block: str, x: str) -> str:
        name, size = f"{block}/SelfAttention", self._width // self._heads
        normed, by_head = self.norm(f"{block}/LayerNorm_0", x), (self._batch, self._tokens, self._heads, size)
        if self._attention == "contrib":
            joined = self._projection(name, _PARTS, 1.0)
            mixed = self.op("Attention", normed, *joined, domain="com.microsoft", num_heads=self._heads)
        else:
            if self._attention == "fused":
                projected = self.dense(normed, *self._projection(name, _PARTS, size**-0.5))
                projected = self.transpose(self.reshape(projected, *by_head[:2], 3, *by_head[2:]), 2, 0, 3, 1, 4)
                parts = self.op("Split", projected, outputs=3, axis=0, num_outputs=3)
                query, key, value = (self.op("Squeeze", part, [0]) for part in parts)
                key = self.transpose(key, 0, 1, 3, 2)
            else:
                parts = (self.dense(normed, *self._projection(name, [part], size**-0.5)) for part in _PARTS)
                query, key, value = (
                    self.transpose(self.reshape(part, *by_head), *perm)
                    for part, perm in zip(parts, ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)), strict=True)
                )
            scores = self.op("Softmax", self.op("MatMul", query, key), axis=-1)
            mixed = self.transpose(self.op("MatMul", scores, value), 0, 2, 1, 3)
            mixed = self.reshape(mixed, self._batch, self._tokens, self._width)
        out = self.weight(f"{name}/out/kernel", self._width, self._width), self.weight(f"{name}/out/bias")
        return self.op("Add", x, self.dense(mixed, *out))

    def _projection(self, name: str, parts: Any, query_scale: float) -> tuple[Array, Array]:
        """Return the kernel and bias of the projections in `parts`, such as query, key and value.

        The P projections are concatenated. The kernel is [D,P*D], and the bias is [P*D].
        """
        scales = [np.float32(query_scale if part == "query" else 1.0) for part in parts]
        kernels = [self.weight(f"{name}/{part}/kernel", self._width, self._width) for part in parts]
        biases = [self.weight(f"{name}/{part}/bias", self._width) for part in parts]
        kernel, bias = (
            np.concatenate([tensor * scale for tensor, scale in zip(tensors, scales, strict=True)], axis=-1)
            for tensors in (kernels, biases)
        )
        return kernel, bias

    def mlp(self, x: str, kernel0: Array, bias0: Array, kernel1: Array, bias1: Array) -> str:
        hidden = self.op("Gelu", self.dense(x, kernel0, bias0), approximate="tanh")
        return self.dense(hidden, kernel1, bias1)

    def head(self, x: str) -> str:
        first = self.op("Gather", x, 0, axis=1)  # the head reads only the class token
        normed = self.norm("Encoder/encoder_norm", first)
        return self.dense(normed, self.weight("head/kernel"), self.weight("head/bias"))
