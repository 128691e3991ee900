"""Collect the nodes of a graph, name them, and keep the tensors that they use."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from vmoe_export.bundle.weights_file import Span, external_tensor
from vmoe_export.ops.table import DOMAIN, OPS, PLUGIN_ATTRIBUTES

_BLOCKS = ("VmoeAttentionBlock", "VmoeMlpBlock", "VmoeExpertBlock")


class GraphWriter:
    """The nodes of a graph in the order of computation, and the tensors that they use.

    - A node is named after its op and its layer in the official parameter tree. An example is
      `encoderblock_0/SelfAttention/query/MatMul`.
    - A value is named after the op and the number of the node that computes it.
    - A weight has its official name.

    Args:
        weights: the position of each parameter in the weights file.

    Attributes:
        nodes: the nodes. Each node comes after the nodes whose outputs it uses.
        blocks: a tuple for each part with a residual in the encoder blocks. The tuple holds the part's op, whether the op
            gets only class tokens, and the names of the op's input and output.
    """

    def __init__(self, weights: Mapping[str, Span]) -> None:
        self._weights = weights
        self._tensors = {name: external_tensor(name, span) for name, span in weights.items()}
        self._taken: Counter[str] = Counter()
        self._place = "embedding"
        self._is_class_token = False  # whether the residual stream x[N,1,D] holds only the class token
        self.nodes: list[onnx.NodeProto] = []
        self.blocks: list[tuple[str, bool, str, str]] = []

    def initializers(self) -> list[onnx.TensorProto]:
        """Return the weights, parts of weights and constants that the nodes use."""
        used = {name for node in self.nodes for name in node.input}
        return [tensor for name, tensor in self._tensors.items() if name in used]

    def _write(self, op: str, inputs: Sequence[str], outputs: Sequence[str], attributes: Mapping[str, int]) -> list[str]:
        """Write an op of the op table in the form that this kind of graph needs.

        Returns:
            The names of the op's outputs. If a name in `outputs` is "", a name is generated for that output.
        """
        named: dict[str, Any] = {**attributes, **PLUGIN_ATTRIBUTES}
        return self._append(helper.make_node(op, inputs, outputs, domain=DOMAIN, **named))

    def _expand(
        self, body: onnx.FunctionProto, inputs: Sequence[str], outputs: Sequence[str], attributes: Mapping[str, int]
    ) -> list[str]:
        """Write a function's body inline, where a node would otherwise call the function."""
        names = dict(zip(body.input, inputs, strict=True))
        names |= {name: given for name, given in zip(body.output, outputs, strict=True) if given}
        for inner in body.node:
            if inner.op_type == "Identity" and names[inner.input[0]] in self._weights:
                names[inner.output[0]] = names[inner.input[0]]
                continue
            node = onnx.NodeProto()
            node.CopyFrom(inner)
            for attribute in node.attribute:
                if attribute.ref_attr_name:
                    attribute.CopyFrom(helper.make_attribute(attribute.name, attributes[attribute.ref_attr_name]))
            node.input[:] = [names[name] for name in inner.input]
            node.output[:] = [names.get(name, "") for name in inner.output]
            if node.domain == DOMAIN:
                given = {attribute.name: attribute.i for attribute in node.attribute}
                made = self._op(node.op_type, node.input, node.output, given)
            else:
                made = self._append(node)
            names.update(zip(inner.output, made, strict=True))
        return [names[name] for name in body.output]

    def _append(self, node: onnx.NodeProto) -> list[str]:
        """Add a node, name it and its unnamed outputs, and return the names of its outputs."""
        name = f"{self._place_of(node.input)}/{node.op_type}"
        node.name = f"{name}_{self._taken[name]}" if self._taken[name] else name
        self._taken[name] += 1
        number = f"{node.op_type}_{len(self.nodes)}"
        node.output[:] = [given or (f"{number}_{index}" if index else number) for index, given in enumerate(node.output)]
        self.nodes.append(node)
        return list(node.output)

    def _place_of(self, inputs: Sequence[str]) -> str:
        """Return the layer of the official tree whose weights are among a node's inputs.

        If no input is a weight, return the layer that is being written.
        """
        layers = [posixpath.dirname(name).removeprefix("Encoder/") or name for name in inputs if name in self._weights]
        # A block's inputs also include a layer norm's weights. Name the block after its other layers.
        layers = [layer for layer in layers if "LayerNorm" not in layer] or layers
        return (posixpath.commonpath(layers) or layers[0]) if layers else self._place

    def _op(self, op: str, inputs: Sequence[str], outputs: Sequence[str], attributes: Mapping[str, int]) -> list[str]:
        assert {"activation", *attributes} >= OPS[op].attributes.keys() >= attributes.keys()
        outer, self._place = self._place, self._place_of(inputs)
        written = self._write(op, inputs, outputs, attributes)
        self._place = outer
        if op in _BLOCKS:
            self.blocks.append((op, self._is_class_token, inputs[0], written[0]))
        return written

    def _vmoe(self, op: str, *inputs: str, outputs: Sequence[str] = (), **attributes: int) -> str:
        """Write an op of the op table, and return the name of its first output."""
        return self._op(op, inputs, outputs or [""] * len(OPS[op].outputs), attributes)[0]

    def _add(self, op: str, *inputs: str, outputs: Sequence[str] = ("",), **attributes: Any) -> str:
        """Add a node of a standard op, and return the name of its first output."""
        return self._append(helper.make_node(op, inputs, outputs, **attributes))[0]

    def _constant(self, name: str, values: Any, dtype: Any) -> str:
        array = np.asarray(values, dtype)
        tensor = self._tensors.setdefault(name, numpy_helper.from_array(array, name))
        assert np.array_equal(numpy_helper.to_array(tensor), array)
        return name

    def _part(self, whole: str, name: str, number: int, *dims: int) -> str:
        """Declare part `number` of a weight as a separate tensor, and return the tensor's name.

        The new tensor refers to the bytes of the weight, so nothing is stored twice.
        """
        part = replace(self._weights[whole], shape=dims)
        self._tensors[name] = external_tensor(name, replace(part, offset=part.offset + number * part.nbytes))
        return name

    def _integers(self, *values: int) -> str:
        """Return the name of an int64 constant that holds `values`, such as a shape or axes."""
        return self._constant(f"int64_{'_'.join(map(str, values))}", values, np.int64)

    def _reshape(self, x: str, *shape: int) -> str:
        return self._add("Reshape", x, self._integers(*shape))

    def _first_token(self, x: str, *, keepdims: bool = False) -> str:
        return self._add("Gather", x, self._integers(0) if keepdims else self._constant("first", 0, np.int64), axis=1)

    def _slice(self, x: str, first: int, last: int) -> str:
        """Slice tokens `first` to `last` (exclusive) from x[N,T,...], and return the name of the result.

        `last` may exceed T.
        """
        return self._add("Slice", x, self._integers(first), self._integers(last), self._integers(1))
