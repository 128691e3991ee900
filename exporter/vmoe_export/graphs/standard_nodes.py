"""Write the ops of a model as standard ONNX ops, with one 2-D MatMul per expert.

A 3-D tensor stores the weights of all experts. Each expert's weights are a separate initializer that refers to a
part of this tensor. Runtimes keep a packed copy of constant 2-D weights. If the graph split the 3-D tensor itself,
memory would hold the weights twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
import onnx.parser

from vmoe_export.graphs.model_nodes import ModelNodes
from vmoe_export.ops.onnx_lines import activate, added_products
from vmoe_export.ops.table import ACTIVATIONS, OPSET
from vmoe_export.precision import weight_type
from vmoe_export.weight_types.bfloat16 import round_bf16_lines


class StandardNodes(ModelNodes):
    """The nodes of a model in standard ONNX ops. Each op of the op table is replaced by the body of its ONNX function."""

    def _write(self, op: str, inputs: Sequence[str], outputs: Sequence[str], attributes: Mapping[str, int]) -> list[str]:
        if op == "VmoeExpertMlp":
            body, inputs = self._by_expert(inputs, **attributes)
            return self._expand(body, inputs, outputs, {})
        return self._expand(self.functions[op], inputs, outputs, attributes)

    def _by_expert(
        self, inputs: Sequence[str], *, dispatch_bf16: int, hidden_chunk: int, activation: int = 0
    ) -> tuple[onnx.FunctionProto, list[str]]:
        """Return a body of VmoeExpertMlp, and the inputs of this body.

        The body takes the weights of each chunk of each expert as a separate input.
        """
        buf, w1, b1, w2, b2, *scales = inputs
        kind = weight_type(w1, self.model.precision)
        count, hidden, width = self._weights[w2].shape
        chunk = hidden_chunk or hidden
        experts, chunks = range(count), range(hidden // chunk)
        parts = {
            f"{local}_{e}": self._part(name, f"{name}/{e}", e, *self._weights[name].shape[1:])
            for local, name in zip(("w1", "b1", "b2", "w1_scale", "w2_scale"), (w1, b1, b2, *scales), strict=False)
            for e in experts
        }
        for e in experts:
            for i in chunks:
                part = f"{e}/{i}" if len(chunks) > 1 else f"{e}"
                number = e * len(chunks) + i
                parts[f"w2_{e}_{i}"] = self._part(w2, f"{w2}/{part}", number, chunk, width)
                if kind.group:
                    groups = -(-chunk // kind.group)
                    parts[f"w2_scale_{e}_{i}"] = self._part(scales[1], f"{scales[1]}/{part}", number, groups, width)
        lines = [
            round_bf16_lines("buf", "rounded", bool(dispatch_bf16)),
            f"{', '.join(f'buf_{e}' for e in experts)} = Split <axis = 0, num_outputs = {len(experts)}> (rounded)",
        ]
        for e in experts:
            matrices = [f"w2_{e}_{i}" for i in chunks]
            own_scales = [f"w2_scale_{e}_{i}" if kind.group else f"w2_scale_{e}" for i in chunks]
            rows = [f"hidden_{e}_{i}" for i in chunks] if len(chunks) > 1 else [f"hidden_{e}"]
            lines += [
                kind.product_lines(f"buf_{e}", f"w1_{e}", f"product1_{e}", f"w1_scale_{e}", width),
                activate(ACTIVATIONS[activation], f"product1_{e}", f"b1_{e}", f"hidden_{e}", f"e{e}_"),
                f"{', '.join(rows)} = Split <axis = -1, num_outputs = {len(rows)}> (hidden_{e})" if len(chunks) > 1 else "",
                added_products(rows, matrices, f"product2_{e}", kind, own_scales, chunk),
                f"out_{e} = Add (product2_{e}, b2_{e})",
            ]
        lines += [
            f"exact = Concat <axis = 0> ({', '.join(f'out_{e}' for e in experts)})",
            round_bf16_lines("exact", "out", bool(dispatch_bf16)),
        ]
        opset = max(OPSET, kind.opset)
        header = f'<domain: "body", opset_import: ["": {opset}]> body (buf, {", ".join(parts)}) => (out)'
        return onnx.parser.parse_function(f"{header} {{ {chr(10).join(lines)} }}"), [buf, *parts.values()]
