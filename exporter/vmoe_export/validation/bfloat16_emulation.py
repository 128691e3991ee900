"""A bfloat16 graph in float32, each result rounded: what it computes can be seen on a runtime without bfloat16 products.

Products of two bfloat16 are exact in float32 and are added up in float32, as GPUs do; only the order of the sums differs.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from vmoe_export.ops.functions import fixed_function_bodies

_BY_TYPE = {"float": TensorProto.FLOAT, "bf16": TensorProto.BFLOAT16}


def emulate_bfloat16(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with every bfloat16 value widened to float32 and every bfloat16 result rounded and widened again.

    Args:
        graph: what `tensorrt_graph` gives for the precision bf16.
    """
    inferred = onnx.shape_inference.infer_shapes(graph, check_type=True, strict_mode=True).graph
    short = {v.name for v in inferred.value_info if v.type.tensor_type.elem_type == TensorProto.BFLOAT16}
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    del model.graph.node[:], model.functions[:]
    nodes = model.graph.node
    stored = {tensor.name for tensor in graph.graph.initializer if tensor.data_type == TensorProto.BFLOAT16}
    nodes.extend(_cast(name, f"{name}/wide", "float") for name in sorted(stored))
    for node in graph.graph.node:
        copy = nodes.add()
        copy.CopyFrom(node)
        copy.input[:] = [f"{name}/wide" if name in stored else name for name in node.input]
        results = [name for name in node.output if name in short]
        copy.output[:] = [f"{name}/exact" if name in short else name for name in node.output]
        if node.op_type == "Cast" and results:
            del copy.attribute[:]
            copy.attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
        for name in results:
            nodes.append(_cast(f"{name}/exact", f"{name}/rounded", "bf16"))
            nodes.append(_cast(f"{name}/rounded", name, "float"))
    if graph.functions:
        model.functions.extend(fixed_function_bodies(dispatched="float", combined="float"))
    return model


def _cast(source: str, target: str, element: str) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], f"{source}/to_{element}", to=_BY_TYPE[element])
