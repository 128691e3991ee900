"""Turns the canonical graph into `model.inlined.onnx`: standard ops only, one 2-D MatMul per expert.

Runtimes keep a packed copy of constant 2-D weights; split out of a 3-D tensor inside the graph, the weights would exist
twice. So each expert's weights are initializers of their own, which point into the stored tensor.
"""

from __future__ import annotations

import math

import onnx
import onnx.inliner
import onnx.parser

from vmoe_export.graph import SETTINGS
from vmoe_export.ops.functions import OPSET, expert_product, gelu_tanh, round_bf16
from vmoe_export.ops.table import DOMAIN, OPS

_BYTES: dict[int, int] = {onnx.TensorProto.FLOAT: 4, onnx.TensorProto.BFLOAT16: 2}


def inline(canonical: onnx.ModelProto) -> onnx.ModelProto:
    """The graph of standard ops. `capacity`, `k` and `bpr` are plain inputs without defaults."""
    inner = [(DOMAIN, name) for name in OPS if name != "VmoeExpertMlp"]
    model = onnx.inliner.inline_selected_functions(canonical, inner)
    graph = model.graph
    initializers = {tensor.name: tensor for tensor in graph.initializer if tensor.name not in SETTINGS}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "VmoeExpertMlp":
            nodes += _per_expert(node, f"experts_{len(nodes)}", initializers)
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input}
    del graph.node[:], graph.initializer[:], model.functions[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensor for name, tensor in initializers.items() if name in used)
    standard = [opset for opset in model.opset_import if opset.domain == ""]
    del model.opset_import[:]
    model.opset_import.extend(standard)
    return model


def _per_expert(node: onnx.NodeProto, prefix: str, initializers: dict[str, onnx.TensorProto]) -> list[onnx.NodeProto]:
    buf, *weights = node.input
    dispatch_bf16 = any(a.name == "dispatch_bf16" and a.i for a in node.attribute)
    experts = range(initializers[weights[0]].dims[0])
    parts = {
        f"{local}_{e}": _slice(initializers, name, e)
        for local, name in zip(("w1", "b1", "w2", "b2"), weights, strict=True)
        for e in experts
    }
    bf16_weights = initializers[weights[0]].data_type == onnx.TensorProto.BFLOAT16
    lines = [
        round_bf16("buf", "rounded", dispatch_bf16),
        f"{', '.join(f'buf_{e}' for e in experts)} = Split <axis = 0, num_outputs = {len(experts)}> (rounded)",
    ]
    for e in experts:
        lines += [
            expert_product(f"buf_{e}", f"w1_{e}", f"product1_{e}", bf16_weights),
            gelu_tanh(f"product1_{e}", f"b1_{e}", f"hidden_{e}", f"e{e}_"),
            expert_product(f"hidden_{e}", f"w2_{e}", f"product2_{e}", bf16_weights),
            f"out_{e} = Add (product2_{e}, b2_{e})",
        ]
    lines += [
        f"exact = Concat <axis = 0> ({', '.join(f'out_{e}' for e in experts)})",
        round_bf16("exact", "out", dispatch_bf16),
    ]
    body = onnx.parser.parse_function(
        f'<domain: "body", opset_import: ["": {OPSET}]> body (buf, {", ".join(parts)}) => (out) {{ {chr(10).join(lines)} }}'
    )
    names = {"buf": buf, "out": node.output[0], **parts}
    for inner in body.node:
        for ports in (inner.input, inner.output):
            ports[:] = [names.get(port, f"{prefix}/{port}") for port in ports]
    return list(body.node)


def _slice(initializers: dict[str, onnx.TensorProto], name: str, expert: int) -> str:
    """One expert's share of a stored tensor, as an initializer of its own; returns its name."""
    whole = initializers[name]
    place = {entry.key: entry.value for entry in whole.external_data}
    dims = list(whole.dims[1:])
    length = _BYTES[whole.data_type] * math.prod(dims)
    part = onnx.TensorProto(name=f"{name}/{expert}", data_type=whole.data_type, dims=dims)
    part.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (
        ("location", place["location"]),
        ("offset", str(int(place["offset"]) + expert * length)),
        ("length", str(length)),
    ):
        part.external_data.add(key=key, value=value)
    initializers[part.name] = part
    return part.name
