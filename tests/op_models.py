"""Runs one vmoe op alone: in numpy, torch, ONNX Runtime (as a local function, and inlined) and OpenVINO."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence

import ml_dtypes
import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import openvino
import torch
from onnx import TensorProto, helper

import vmoe_export.ops.torch_ops  # noqa: F401  (registers torch.ops.vmoe)
from vmoe_export.ops import reference
from vmoe_export.ops.functions import IR_VERSION, OPSET, function_bodies
from vmoe_export.ops.table import DOMAIN, ELEMENT_TYPES, OPS, VERSION, Op, Value

RUNNERS = ("torch", "onnxruntime", "onnxruntime-inlined", "openvino")
ONNX_TYPES = {"float": TensorProto.FLOAT, "i32": TensorProto.INT32, "i64": TensorProto.INT64}
NUMPY_TYPES = {"float": np.float32, "i32": np.int32, "i64": np.int64, "bf16": ml_dtypes.bfloat16}
SETTINGS = ("capacity", "k", "bpr")

Run = Callable[..., list[np.ndarray]]


def run_reference(op: Op, *inputs: np.ndarray, dispatch_bf16: bool = False) -> list[np.ndarray]:
    """The numpy reference, in the dtype of the inputs."""
    arguments = [int(array[0]) if value.type == "i64" else array for value, array in zip(op.inputs, inputs, strict=True)]
    flags = attribute_values(op, dispatch_bf16).values()
    outputs = reference_function(op)(*arguments, *flags)
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


def reference_function(op: Op) -> Callable[..., object]:
    return getattr(reference, op.torch_name.removeprefix(f"{DOMAIN}::"))


def reference_parameters(op: Op) -> list[str]:
    return list(inspect.signature(reference_function(op)).parameters)


def torch_op(op: Op) -> torch._ops.OpOverload:
    return getattr(torch.ops.vmoe, op.torch_name.removeprefix(f"{DOMAIN}::")).default


@functools.cache
def runner(name: str, op_name: str, dispatch_bf16: bool = False, bf16_weights: bool = False) -> Run:
    """A function from the op's inputs, in order, to its outputs, in order; with `bf16_weights`, w1 and w2 are bfloat16."""
    op = OPS[op_name]
    names = [value.name for value in op.inputs]
    if name == "torch":
        flags = attribute_values(op, dispatch_bf16).values()

        def run_torch(*inputs: np.ndarray) -> list[np.ndarray]:
            outputs = torch_op(op)(*map(_to_torch, inputs), *flags)
            return [output.numpy() for output in _as_list(outputs)]

        return run_torch
    model = one_node_model(op, dispatch_bf16, bf16_weights)
    if name != "onnxruntime":
        model = onnx.inliner.inline_local_functions(model)
    return _session_runner(model, names, openvino_cpu=name == "openvino")


def run_graph(name: str, model: onnx.ModelProto) -> Run:
    """The same for any model without local functions."""
    names = [value.name for value in model.graph.input]
    return _session_runner(model, names, openvino_cpu=name == "openvino")


def one_node_model(op: Op, dispatch_bf16: bool = False, bf16_weights: bool = False) -> onnx.ModelProto:
    """A checked model that is one node of the op, with the functions of all ops.

    numpy has no bfloat16 that runtimes take: where the op gets bfloat16, the model takes the values as float32.
    """
    inputs, outputs = (list(map(_value_info, values)) for values in (op.inputs, op.outputs))
    narrow = [value.name for value in op.inputs if bf16_weights and "bf16" in ELEMENT_TYPES[value.type]]
    casts = [helper.make_node("Cast", [name], [f"{name}_bf16"], to=TensorProto.BFLOAT16) for name in narrow]
    node = helper.make_node(
        op.name,
        [f"{value.name}_bf16" if value.name in narrow else value.name for value in op.inputs],
        [value.name for value in op.outputs],
        domain=DOMAIN,
        **attribute_values(op, dispatch_bf16),
    )
    model = helper.make_model(
        helper.make_graph([*casts, node], op.name, inputs, outputs),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)],
        functions=function_bodies(dispatch_bf16, bf16_weights),
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def attribute_values(op: Op, dispatch_bf16: bool) -> dict[str, int]:
    return {name: int(dispatch_bf16) if name == "dispatch_bf16" else value for name, value in op.attributes.items()}


def settings(capacity: int, k: int, bpr: bool) -> list[np.ndarray]:
    return [np.array([number], np.int64) for number in (capacity, k, bpr)]


def _value_info(value: Value) -> onnx.ValueInfoProto:
    dims = [int(dim) if dim.isdecimal() else dim for dim in value.dims]
    return helper.make_tensor_value_info(value.name, ONNX_TYPES[ELEMENT_TYPES[value.type][0]], dims)


def _session_runner(model: onnx.ModelProto, names: Sequence[str], *, openvino_cpu: bool) -> Run:
    outputs = [value.name for value in model.graph.output]
    if openvino_cpu:
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

        def run_openvino(*inputs: np.ndarray) -> list[np.ndarray]:
            results = compiled(dict(zip(names, map(_widened, inputs), strict=True)))
            return [np.array(results[output]) for output in outputs]

        return run_openvino
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda *inputs: session.run(outputs, dict(zip(names, map(_widened, inputs), strict=True)))


def _widened(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array


def _to_torch(array: np.ndarray) -> torch.Tensor:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _as_list(outputs: torch.Tensor | tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
