"""Turns the canonical graph into `model.inlined.onnx`: standard ops only, one 2-D MatMul per expert.

Runtimes keep a packed copy of constant 2-D weights; split out of a 3-D tensor inside the graph, the weights would exist
twice. So each expert's weights are initializers of their own, which point into the stored tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx
import onnx.inliner
import onnx.parser

from vmoe_export.graphs.graph_description import explain, settings_sentence
from vmoe_export.graphs.node_names import name_nodes
from vmoe_export.ops.functions import OPSET
from vmoe_export.ops.onnx_lines import added_products, gelu_tanh, product, round_bf16
from vmoe_export.ops.table import DOMAIN, OPS
from vmoe_export.precision import STORED_BYTES, STORED_TYPES, WeightType
from vmoe_runtime.profiles import SETTINGS

_WEIGHT_TYPES: Mapping[int, WeightType] = {
    onnx.TensorProto.FLOAT: "float",
    onnx.TensorProto.BFLOAT16: "bf16",
    onnx.TensorProto.INT8: "i8",
}


def inline(canonical: onnx.ModelProto) -> onnx.ModelProto:
    """The graph of standard ops. What the routing kind sets are plain inputs without defaults."""
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
    name_nodes(graph)
    given = [value.name for value in graph.input if value.name in SETTINGS]
    settings = f"{settings_sentence(given)} and must be given. " if given else ""
    explain(model, f"{settings}Standard ops only: any ONNX Runtime from 1.21 on runs it, and OpenVINO.")
    return model


def _per_expert(node: onnx.NodeProto, prefix: str, initializers: dict[str, onnx.TensorProto]) -> list[onnx.NodeProto]:
    buf, *weights = node.input
    w1, b1, w2, b2, *scales = weights
    attributes = {a.name: a.i for a in node.attribute if a.type == onnx.AttributeProto.INT}
    dispatch_bf16 = bool(attributes["dispatch_bf16"])
    element = _WEIGHT_TYPES[initializers[w1].data_type]
    count, hidden, width = initializers[w2].dims
    chunk = attributes["hidden_chunk"] or hidden
    experts, chunks = range(count), range(hidden // chunk)
    parts = {
        f"{local}_{e}": _part(initializers, name, f"{name}/{e}", e, initializers[name].dims[1:])
        for local, name in zip(("w1", "b1", "b2", "w1_scale", "w2_scale"), (w1, b1, b2, *scales), strict=False)
        for e in experts
    }
    for e in experts:
        for i in chunks:
            name = f"{w2}/{e}/{i}" if len(chunks) > 1 else f"{w2}/{e}"
            parts[f"w2_{e}_{i}"] = _part(initializers, w2, name, e * len(chunks) + i, [chunk, width])
    lines = [
        round_bf16("buf", "rounded", dispatch_bf16),
        f"{', '.join(f'buf_{e}' for e in experts)} = Split <axis = 0, num_outputs = {len(experts)}> (rounded)",
    ]
    for e in experts:
        rows = [f"hidden_{e}_{i}" for i in chunks] if len(chunks) > 1 else [f"hidden_{e}"]
        lines += [
            product(f"buf_{e}", f"w1_{e}", f"product1_{e}", element, f"w1_scale_{e}"),
            gelu_tanh(f"product1_{e}", f"b1_{e}", f"hidden_{e}", f"e{e}_"),
            f"{', '.join(rows)} = Split <axis = -1, num_outputs = {len(rows)}> (hidden_{e})" if len(chunks) > 1 else "",
            added_products(rows, [f"w2_{e}_{i}" for i in chunks], f"product2_{e}", element, f"w2_scale_{e}"),
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


def _part(initializers: dict[str, onnx.TensorProto], whole: str, name: str, number: int, dims: Sequence[int]) -> str:
    """The part of a stored tensor with that number, as an initializer of its own; returns its name."""
    stored = initializers[whole]
    place = {entry.key: entry.value for entry in stored.external_data}
    length = STORED_BYTES[STORED_TYPES[_WEIGHT_TYPES[stored.data_type]]] * math.prod(dims)
    part = onnx.TensorProto(name=name, data_type=stored.data_type, dims=dims)
    part.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (
        ("location", place["location"]),
        ("offset", str(int(place["offset"]) + number * length)),
        ("length", str(length)),
    ):
        part.external_data.add(key=key, value=value)
    initializers[part.name] = part
    return part.name
