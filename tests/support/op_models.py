"""Runs a single vmoe op in numpy, ONNX Runtime and OpenVINO.

ONNX Runtime can run the op in three ways: as a local function, as standard ops after inlining, or from the op library.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence

import ml_dtypes
import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import op_reference as reference
import openvino
from cpu_paths import Call
from onnx import TensorProto, helper, numpy_helper

from vmoe_export.ops.body_options import MERGING_INPUTS, BodyOptions, input_names, written_attributes
from vmoe_export.ops.functions import function_bodies
from vmoe_export.ops.onnx_lines import ONNX_TYPES
from vmoe_export.ops.table import (
    ACTIVATIONS,
    DOMAIN,
    ELEMENT_TYPES,
    IR_VERSION,
    OPS,
    OPSET,
    POLICIES,
    VERSION,
    ElementType,
    Op,
    Types,
    Value,
)
from vmoe_export.weight_types import INT8, WEIGHT_TYPES
from vmoe_export.weight_types.int8 import quantize_columns
from vmoe_runtime.op_library import find_library, library_path

OP_LIBRARY = "op-library"
RUNNERS = ("onnxruntime", "onnxruntime-inlined", "openvino", *([OP_LIBRARY] if find_library() else []))
NUMPY_TYPES = {
    "float": np.float32,
    "i8": np.int8,
    "i4": ml_dtypes.int4,
    "i32": np.int32,
    "i64": np.int64,
    "bf16": ml_dtypes.bfloat16,
    "fp16": np.float16,
}
WIDER_TYPES: dict[ElementType, ElementType] = {"bf16": "float", "i4": "i8"}
"""Types that runtimes can't exchange with numpy, and the types that replace them."""
SETTINGS = ("capacity", "k", "bpr")
USUAL = frozenset(("ln_bias",))
"""The optional inputs, except scales, of a one-node model if a test doesn't choose them."""
WITH_POLICIES, MERGING = USUAL | {*POLICIES}, USUAL | {*MERGING_INPUTS}
EVERY = frozenset(value.name for op in OPS.values() for value in op.inputs if value.optional and not value.scale_of)

Run = Callable[..., list[np.ndarray]]


def run_reference(op: Op, *inputs: np.ndarray | None, **attributes: int) -> list[np.ndarray]:
    """Run the numpy reference in the dtype of the inputs.

    Scales that the op doesn't need may be omitted from the inputs.
    """
    given = padded(op, inputs)
    arguments = [
        int(array[0]) if value.type == "i64" and array is not None else array
        for value, array in zip(op.inputs, given, strict=True)
    ]
    outputs = getattr(reference, reference.function_name(op.name))(*arguments, **attribute_values(op, **attributes))
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


def run_exact(op: Op, *inputs: np.ndarray | None, **attributes: int) -> list[np.ndarray]:
    """Run the numpy reference in float64.

    Weights that aren't float32 keep their type, because their type determines how the op computes.
    """
    wide = (a.astype(np.float64) if a is not None and a.dtype == np.float32 else a for a in inputs)
    return run_reference(op, *wide, **attributes)


def padded(op: Op, inputs: Sequence[np.ndarray | None]) -> list[np.ndarray | None]:
    """Return one item for each input of the op. The item is None if an optional input is omitted.

    The number of given inputs determines which ones are omitted.
    """
    if len(inputs) == len(op.inputs):
        return list(inputs)
    dtypes = {array.dtype for array in inputs if array is not None}
    weights = next((name for name in ("i8", "i4") if np.dtype(NUMPY_TYPES[name]) in dtypes), "float")
    sets = (given_inputs(op, weights, given) for given in (USUAL, MERGING, WITH_POLICIES, EVERY))
    values, left = next(values for values in sets if len(values) >= len(inputs)), list(inputs)
    return [left.pop(0) if value in values and left else None for value in op.inputs]


def made_outputs(op: Op, given: Collection[str] = USUAL) -> list[Value]:
    """Return the outputs of a node whose optional inputs are `given`."""
    merges = "merge" in given or op.name == "VmoeMerge"

    def is_made(value: Value) -> bool:
        needed = value.name.removeprefix("merged_")
        return not value.optional or needed == value.name or (merges and needed in given)

    return [value for value in op.outputs if is_made(value)]


def element_types(op: Op, weights: ElementType = "float", tokens: ElementType = "float") -> Types:
    """Return the element type that each of the op's type variables stands for."""
    chosen: Types = {"W": weights, "Q": "fp16" if weights == "i4" else "float", "T": tokens}
    return {value.type: chosen.get(value.type, ELEMENT_TYPES[value.type][0]) for value in (*op.inputs, *op.outputs)}


def given_inputs(op: Op, weights: ElementType = "float", given: Collection[str] = USUAL) -> list[Value]:
    """Return the inputs that a node has if its optional inputs are `given` and its weights have the type `weights`.

    Scales are among the inputs only for int8 and int4 weights.
    """
    values = {value.name: value for value in op.inputs}

    def is_given(value: Value) -> bool:
        if value.scale_of:
            return weights in ("i8", "i4") and is_given(values[value.scale_of])
        return not value.optional or value.name in given

    return [value for value in op.inputs if is_given(value)]


@functools.cache
def runner(
    name: str,
    op_name: str,
    weights: ElementType = "float",
    tokens: ElementType = "float",
    *,
    hidden: int = 0,
    given: frozenset[str] = USUAL,
    **attributes: int,
) -> Run:
    """Return a function that runs the op in the runtime `name`.

    The function takes the op's inputs and returns the op's outputs, both in order. `weights` and `tokens` are the types W
    and T. For int8 or int4 weights, the inputs include scales. `hidden` is F, which an MLP with the attribute `hidden_chunk`
    needs. `given` contains the node's optional inputs.
    """
    op = OPS[op_name]
    names = [value.name for value in given_inputs(op, weights, given)]
    types = element_types(op, weights, tokens)
    model = one_node_model(op, weights, tokens, hidden=hidden, given=given, **attributes)
    if name not in ("onnxruntime", OP_LIBRARY):
        model = onnx.inliner.inline_local_functions(model)
    run_widened = _session_runner(model, names, name)

    def run_session(*inputs: np.ndarray) -> list[np.ndarray]:
        outputs = zip(run_widened(*inputs), made_outputs(op, given), strict=True)
        with np.errstate(invalid="ignore"):  # numpy warns when a NaN is converted to a shorter type
            return [output.astype(NUMPY_TYPES[types[value.type]]) for output, value in outputs]

    return run_session


def run_graph(name: str, model: onnx.ModelProto) -> Run:
    """Return a function that runs a model in the runtime `name`.

    The function takes inputs and returns outputs, both in order. The model must not have local functions.
    """
    names = [value.name for value in model.graph.input]
    return _session_runner(model, names, name)


def one_node_model(
    op: Op,
    weights: ElementType = "float",
    tokens: ElementType = "float",
    *,
    hidden: int = 0,
    given: frozenset[str] = USUAL,
    **attributes: int,
) -> onnx.ModelProto:
    """Return a checked model that consists of one node for the op. The model includes the functions of all ops.

    Runtimes can't exchange bfloat16 and int4 arrays with numpy. Therefore, the model's inputs and outputs have float32 in
    place of bfloat16, and int8 in place of int4.
    """
    types = element_types(op, weights, tokens)
    taken, made = given_inputs(op, weights, given), made_outputs(op, given)
    narrow = [value.name for value in (*taken, *made) if types[value.type] in WIDER_TYPES]
    inner = {name: f"{name}_narrow" for name in narrow}
    # If an omitted input is followed by other inputs, its name is empty.
    known = [value.name for value in taken]
    kind = WEIGHT_TYPES[weights]
    places = [name if name in known else "" for name in input_names(op.name, kind, given)]
    names = [[inner.get(name, name) for name in row] for row in (places, [value.name for value in made])]
    values = attribute_values(op, **attributes)
    activation = ACTIVATIONS[values.get("activation", 0)]
    written = {name: values[name] for name in written_attributes(op, activation)}
    node = helper.make_node(op.name, *names, domain=DOMAIN, **written)
    casts_in, casts_out = (
        [
            helper.make_node("Cast", [inner[v.name]], [v.name], to=TensorProto.FLOAT)
            if outward
            else helper.make_node("Cast", [v.name], [inner[v.name]], to=ONNX_TYPES[types[v.type]])
            for v in values
            if v.name in narrow
        ]
        for values, outward in ((taken, False), (made, True))
    )
    inputs, outputs = ([_value_info(value, types) for value in values] for values in (taken, made))
    chunks = hidden // values["hidden_chunk"] if values.get("hidden_chunk") else 1
    model = helper.make_model(
        helper.make_graph([*casts_in, node, *casts_out], op.name, inputs, outputs),
        opset_imports=[
            helper.make_opsetid("", max(OPSET, kind.opset)),
            helper.make_opsetid(DOMAIN, VERSION),
        ],
        functions=function_bodies(
            BodyOptions(
                dense=INT8 if kind.group else kind,
                experts=kind,
                attention_bf16=bool(values["bf16"]) if "bf16" in values else None,
                dispatch_bf16=bool(values.get("dispatch_bf16")),
                soft_bf16=bool(values.get("dispatch_bf16")),
                dense_chunks=chunks,
                expert_chunks=chunks,
                tokens=tokens,
                given=given,
                prefix=values.get("prefix", 0),
                activation=activation,
            )
        ),
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
    """Return a call of an unchecked model that consists of one node for the op.

    The inputs can have any type and shape. Those in `constants` become initializers. An input is omitted if it is missing or
    None in `inputs`. If `outputs` is given, all other outputs are omitted. The model contains no input shapes, so calls that
    differ only in input shapes have the same model. If the op has bfloat16 inputs or outputs, the model has float32 ones,
    except for constants. Outputs of type T have the same type as the input of type T.
    """
    op = OPS[op_name]
    given = {name: array for name, array in inputs.items() if array is not None}
    fed = {name: array for name, array in given.items() if name not in constants}
    narrow = [name for name, array in fed.items() if array.dtype == ml_dtypes.bfloat16]
    names = node_names(op.inputs, given)
    wanted = node_names(op.outputs, [value.name for value in op.outputs] if outputs is None else outputs)
    tokens = next((given[v.name].dtype for v in op.inputs if v.type == "T" and v.name in given), np.dtype(np.float32))
    made = {
        value.name: tokens if value.type == "T" else np.dtype(NUMPY_TYPES[ELEMENT_TYPES[value.type][0]])
        for value in op.outputs
        if value.name in wanted
    }
    widened = [name for name, dtype in made.items() if dtype == ml_dtypes.bfloat16]
    node = helper.make_node(
        op.name,
        [f"{name}_bf16" if name in narrow else name for name in names],
        [f"{name}_out_bf16" if name in widened else f"{name}_out" if name else "" for name in wanted],
        domain=DOMAIN,
        **(attributes or {}),
    )
    graph = helper.make_graph(
        [
            *(helper.make_node("Cast", [name], [f"{name}_bf16"], to=TensorProto.BFLOAT16) for name in narrow),
            node,
            *(helper.make_node("Cast", [f"{n}_out_bf16"], [f"{n}_out"], to=TensorProto.FLOAT) for n in widened),
        ],
        op.name,
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(_widened(array).dtype), None)
            for name, array in fed.items()
        ],
        [
            helper.make_tensor_value_info(
                f"{name}_out", TensorProto.FLOAT if name in widened else helper.np_dtype_to_tensor_dtype(dtype), None
            )
            for name, dtype in made.items()
        ],
        [numpy_helper.from_array(given[name], name) for name in constants],
    )
    return Call(model_bytes(graph), {name: _widened(array) for name, array in fed.items()})


def node_names(values: Sequence[Value], given: Collection[str]) -> list[str]:
    """Return the names of a node's inputs or outputs, of which only those in `given` are present.

    If an omitted value is followed by others, its name is empty.
    """
    names = [value.name if value.name in given else "" for value in values]
    while names and not names[-1]:
        names.pop()
    return names


def model_bytes(graph: onnx.GraphProto) -> bytes:
    """Return the bytes of a model that has this graph and no functions."""
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    return model.SerializeToString(deterministic=True)


def attribute_values(op: Op, **given: int) -> dict[str, int]:
    """Return the value of every attribute of the op, in the order of the op table.

    Attributes that are not in `given` get their default.
    """
    return {name: given.get(name, default) for name, default in op.attributes.items()}


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Return a float32 array of values from a standard normal distribution."""
    return rng.standard_normal(shape, np.float32)


def mlp_weights(
    rng: np.random.Generator, width: int, hidden: int, *experts: int, weights: ElementType = "float"
) -> dict[str, np.ndarray]:
    """Return an MLP's weights and biases by name. For int8 weights, the result also contains scales.

    The weights are scaled so that outputs have about the same magnitude as inputs.
    """
    shapes = (width, hidden), (hidden, width)
    kernels = [normal(rng, *experts, *shape) / np.float32(shape[0] ** 0.5) for shape in shapes]
    (w1, w2), scales = typed_weights(kernels, weights)
    b1, b2 = (normal(rng, *experts, columns) for _, columns in shapes)
    named = {"w1": w1, "b1": b1, "w2": w2, "b2": b2}
    return named | dict(zip(("w1_scale", "w2_scale"), scales, strict=False))


def typed_weights(kernels: Sequence[np.ndarray], weights: ElementType) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Convert float32 kernels[..., inputs, outputs] to the type `weights`.

    Return the converted kernels and their scales. Only int8 kernels have scales.
    """
    if weights == "i8":
        stored, scales = zip(*map(quantize_columns, kernels), strict=True)
        return list(stored), list(scales)
    return [kernel.astype(NUMPY_TYPES[weights]) for kernel in kernels], []


def settings(capacity: int, k: int, bpr: bool) -> list[np.ndarray]:
    return [np.array([number], np.int64) for number in (capacity, k, bpr)]


def _value_info(value: Value, types: Types) -> onnx.ValueInfoProto:
    named = value.grouped_dims if value.grouped_dims and types[value.type] == "fp16" else value.dims
    dims = [int(dim) if dim.isdecimal() else dim for dim in named]
    element = WIDER_TYPES.get(types[value.type], types[value.type])
    return helper.make_tensor_value_info(value.name, ONNX_TYPES[element], dims)


def _session_runner(model: onnx.ModelProto, names: Sequence[str], name: str) -> Run:
    outputs = [value.name for value in model.graph.output]
    if name == "openvino":
        core = openvino.Core()
        # Use one thread. More threads would wait for one another for longer than the op itself takes.
        properties = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", properties)

        def run_openvino(*inputs: np.ndarray) -> list[np.ndarray]:
            given = dict(zip(names, map(_widened, inputs), strict=True))
            used = {name for port in compiled.inputs for name in port.get_names()}  # OpenVINO removes unused ones
            results = compiled({name: array for name, array in given.items() if name in used})
            return [np.array(results[output]) for output in outputs]

        return run_openvino
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if name == OP_LIBRARY:
        options.register_custom_ops_library(library_path())
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda *inputs: session.run(outputs, dict(zip(names, map(_widened, inputs), strict=True)))


def _widened(array: np.ndarray) -> np.ndarray:
    if array.dtype == ml_dtypes.int4:
        return array.astype(np.int8)
    return array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array
