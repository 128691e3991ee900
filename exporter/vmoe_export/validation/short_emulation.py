"""Emulate a float16 or bfloat16 graph on a CPU: compute in float32, and round each result.

The emulation is needed because ONNX Runtime's CPU provider has no bfloat16 products. It computes float16 products in
float32 without rounding their inputs. In the emulation, a product of two float16 or bfloat16 values is exact in
float32, and sums are float32, as on a GPU. Only the order in which products are added differs from a GPU.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from vmoe_export.ops.functions import fixed_function_bodies

_SHORT = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def emulate_short(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph that computes in float32 and emulates shorter types.

    Every float16 or bfloat16 result is rounded to its type and then converted back to float32.

    Args:
        graph: a graph from `tensorrt_graph` in the precision fp16 or bf16.
    """
    inferred = onnx.shape_inference.infer_shapes(graph, check_type=True, strict_mode=True).graph
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.value_info}
    short = {name: element for name, element in types.items() if element in _SHORT}
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    del model.graph.node[:], model.functions[:]
    nodes = model.graph.node
    stored = {tensor.name for tensor in graph.graph.initializer if tensor.data_type in _SHORT}
    nodes.extend(_cast(name, f"{name}/wide", TensorProto.FLOAT) for name in sorted(stored))
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
            nodes.append(_cast(f"{name}/exact", f"{name}/rounded", short[name]))
            nodes.append(_cast(f"{name}/rounded", name, TensorProto.FLOAT))
    if graph.functions:
        model.functions.extend(fixed_function_bodies(dispatched="float", combined="float"))
    return model


def _cast(source: str, target: str, element: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], f"{target}/cast", to=element)
