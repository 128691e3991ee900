"""Small ONNX models of single ops of the domain `vmoe`, with random weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cpu.flops import Arithmetic
from vmoe_export.ops.table import DOMAIN, OPS, PLUGIN_ATTRIBUTES, VERSION, Value
from vmoe_export.precision import WeightType

Array = np.ndarray[Any, np.dtype[Any]]

WEIGHT_TYPES: Mapping[Arithmetic, WeightType] = {"fp32": "float", "bf16": "bf16", "int8": "i8"}

_DATA_TYPES = {"float": TensorProto.FLOAT, "T": TensorProto.FLOAT, "R": TensorProto.FLOAT}
_DATA_TYPES |= {"i32": TensorProto.INT32, "i64": TensorProto.INT64}
_OPSET, _IR_VERSION = 20, 10
_STDDEV = 0.02
_SEED = 0


class LayerGraph:
    """A graph in the making: ops as the op table declares them, without function bodies, so that only kernels can run it.

    Args:
        name: of its file.
        sizes: of the table's dimensions.
        arithmetic: what products compute in, and so the type of their weights.
    """

    def __init__(self, name: str, sizes: Mapping[str, int], arithmetic: Arithmetic) -> None:
        self._name = f"{name}-{arithmetic}"
        self._sizes = sizes
        self._arithmetic = arithmetic
        self._random = np.random.default_rng(_SEED)
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: dict[str, onnx.ValueInfoProto] = {}
        self._outputs: dict[str, onnx.ValueInfoProto] = {}
        self._initializers: list[onnx.TensorProto] = []

    def add(self, op_name: str, data: Mapping[str, str], outputs: Sequence[str], **attributes: int) -> None:
        """Adds an op whose other inputs are random weights, N(0, 0.02).

        Args:
            op_name: a name in the table.
            data: for each input that is no weight the name of its value: an earlier output, or an input of the graph.
            outputs: names of its outputs, which all are outputs of the graph; those at the end may be left out.
            attributes: of the op.
        """
        op = OPS[op_name]
        inputs = [self._input(op_name, value, data) for value in op.inputs]
        while not inputs[-1]:
            inputs.pop()
        for value in op.inputs:
            name = data.get(value.name)
            if name and name not in self._inputs and name not in self._outputs:
                self._inputs[name] = self._info(name, value)
        for name, value in zip(outputs, op.outputs, strict=False):
            self._outputs[name] = self._info(name, value)
        kept: dict[str, Any] = {name: value for name, value in attributes.items() if name in op.attributes}
        self._nodes.append(helper.make_node(op_name, inputs, outputs, op_name, domain=DOMAIN, **PLUGIN_ATTRIBUTES, **kept))

    def add_gates(self, x: str, gates: str) -> None:
        """Adds a router and its softmax in standard ops, from `x`, an input float32[G,S,D], to `gates` float32[G,S,E]."""
        self._inputs[x] = self._info(x, Value(x, "float", ("G", "S", "D")))
        router = self._constant("router", self._weights(("D", "E")))
        self._nodes.append(helper.make_node("MatMul", [x, router], ["logits"], "router"))
        self._nodes.append(helper.make_node("Softmax", ["logits"], [gates], "gates", axis=-1))
        self._outputs[gates] = self._info(gates, Value(gates, "float", ("G", "S", "E")))

    def write(self, folder: Path) -> Path:
        """Writes the ONNX file into a folder; one of that name is replaced."""
        graph = helper.make_graph(
            self._nodes, self._name, list(self._inputs.values()), list(self._outputs.values()), self._initializers
        )
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(DOMAIN, VERSION)]
        path = folder / f"layer-{self._name}.onnx"
        path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION).SerializeToString())
        return path

    def _input(self, op_name: str, value: Value, data: Mapping[str, str]) -> str:
        """Name of what goes into an input: data, a weight that is made here, or nothing for a scale that isn't needed."""
        name = f"{op_name}.{value.name}"
        if value.name in data:
            return data[value.name]
        if value.scale_of:
            return name if self._arithmetic == "int8" else ""
        if value.optional:  # a policy that isn't asked for
            return ""
        weights = self._weights(value.dims)
        if value.type != "W" or self._arithmetic == "fp32":
            return self._constant(name, weights)
        if self._arithmetic == "bf16":
            return self._constant(name, weights.astype(ml_dtypes.bfloat16))
        scale = np.abs(weights).max(axis=-2) / np.float32(127)
        self._constant(f"{name}_scale", scale)
        return self._constant(name, np.rint(weights / scale[..., None, :]).astype(np.int8))

    def _weights(self, dims: Sequence[str]) -> Array:
        shape = [self._sizes[dim] for dim in dims]
        return self._random.standard_normal(shape, np.float32) * np.float32(_STDDEV)

    def _constant(self, name: str, tensor: Array) -> str:
        self._initializers.append(numpy_helper.from_array(tensor, name))
        return name

    def _info(self, name: str, value: Value) -> onnx.ValueInfoProto:
        shape = [self._sizes.get(dim, int(dim) if dim.isdecimal() else dim) for dim in value.dims]
        return helper.make_tensor_value_info(name, _DATA_TYPES[value.type], shape)
