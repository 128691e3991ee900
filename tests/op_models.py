"""Runs one vmoe op alone: in numpy, torch, ONNX Runtime (local functions, inlined, or the op library) and OpenVINO."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence

import ml_dtypes
import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import openvino
import torch
from cpu_paths import Call
from onnx import TensorProto, helper, numpy_helper

import vmoe_export.ops.torch_ops  # noqa: F401  (registers torch.ops.vmoe)
from vmoe_export.ops import reference
from vmoe_export.ops.functions import IR_VERSION, OPSET, function_bodies
from vmoe_export.ops.table import DOMAIN, ELEMENT_TYPES, OPS, VERSION, Op, Value
from vmoe_runtime.op_library import find_library, library_path

OP_LIBRARY = "op-library"
RUNNERS = ("torch", "onnxruntime", "onnxruntime-inlined", "openvino", *([OP_LIBRARY] if find_library() else []))
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
    if name not in ("onnxruntime", OP_LIBRARY):
        model = onnx.inliner.inline_local_functions(model)
    return _session_runner(model, names, name)


def run_graph(name: str, model: onnx.ModelProto) -> Run:
    """The same for any model without local functions."""
    names = [value.name for value in model.graph.input]
    return _session_runner(model, names, name)


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


def node_call(
    op_name: str,
    inputs: Mapping[str, np.ndarray | None],
    attributes: Mapping[str, object] | None = None,
    *,
    constants: Sequence[str] = (),
    outputs: Sequence[str] | None = None,
) -> Call:
    """One node of the op alone, unchecked: inputs of any type and shape, those of `constants` as initializers.

    An input that is None, or not named, is left out, and so are outputs that `outputs` does not name. The model says
    nothing about shapes, so calls that differ in them alone share it. bfloat16 that is no constant is fed as float32.
    """
    op = OPS[op_name]
    given = {name: array for name, array in inputs.items() if array is not None}
    fed = {name: array for name, array in given.items() if name not in constants}
    narrow = [name for name, array in fed.items() if array.dtype == ml_dtypes.bfloat16]
    names = [value.name if value.name in given else "" for value in op.inputs]
    while names and not names[-1]:
        names.pop()
    wanted = [value.name if outputs is None or value.name in outputs else "" for value in op.outputs]
    while not wanted[-1]:
        wanted.pop()
    node = helper.make_node(
        op.name,
        [f"{name}_bf16" if name in narrow else name for name in names],
        [f"{name}_out" if name else "" for name in wanted],
        domain=DOMAIN,
        **(attributes or {}),
    )
    graph = helper.make_graph(
        [helper.make_node("Cast", [name], [f"{name}_bf16"], to=TensorProto.BFLOAT16) for name in narrow] + [node],
        op.name,
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(_widened(array).dtype), None)
            for name, array in fed.items()
        ],
        [
            helper.make_tensor_value_info(f"{value.name}_out", ONNX_TYPES[ELEMENT_TYPES[value.type][0]], None)
            for value in op.outputs
            if value.name in wanted
        ],
        [numpy_helper.from_array(given[name], name) for name in constants],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    return Call(model.SerializeToString(deterministic=True), {name: _widened(array) for name, array in fed.items()})


def attribute_values(op: Op, dispatch_bf16: bool) -> dict[str, int]:
    return {name: int(dispatch_bf16) if name == "dispatch_bf16" else value for name, value in op.attributes.items()}


def settings(capacity: int, k: int, bpr: bool) -> list[np.ndarray]:
    return [np.array([number], np.int64) for number in (capacity, k, bpr)]


def _value_info(value: Value) -> onnx.ValueInfoProto:
    dims = [int(dim) if dim.isdecimal() else dim for dim in value.dims]
    return helper.make_tensor_value_info(value.name, ONNX_TYPES[ELEMENT_TYPES[value.type][0]], dims)


def _session_runner(model: onnx.ModelProto, names: Sequence[str], name: str) -> Run:
    outputs = [value.name for value in model.graph.output]
    if name == "openvino":
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

        def run_openvino(*inputs: np.ndarray) -> list[np.ndarray]:
            results = compiled(dict(zip(names, map(_widened, inputs), strict=True)))
            return [np.array(results[output]) for output in outputs]

        return run_openvino
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if name == OP_LIBRARY:
        options.register_custom_ops_library(library_path())
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
