"""Check that every implementation of an op has the names, types and shapes that the op table declares."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from op_models import (
    EVERY,
    MERGING,
    NUMPY_TYPES,
    RUNNERS,
    SETTINGS,
    USUAL,
    WITH_POLICIES,
    given_inputs,
    made_outputs,
    one_node_model,
    run_reference,
    runner,
    settings,
)

from vmoe_export.ops.body_options import BodyOptions
from vmoe_export.ops.functions import function_bodies, function_body
from vmoe_export.ops.table import (
    ACTIVATIONS,
    DOMAIN,
    ELEMENT_TYPES,
    OPS,
    OPSET,
    PLUGIN_ATTRIBUTES,
    POLICIES,
    VERSION,
    ElementType,
    Op,
    Types,
)
from vmoe_export.weight_types import WEIGHT_TYPES

pytestmark = pytest.mark.fast

EVERY_WEIGHT = pytest.mark.parametrize("weights", ELEMENT_TYPES["W"])
GIVEN: dict[str, frozenset[str]] = {
    "official": USUAL,
    "policies": WITH_POLICIES,
    "merging": MERGING,
    "rms": EVERY - USUAL,
    "every": EVERY,
}
EVERY_SET = pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
EVERY_OP = pytest.mark.parametrize("op", OPS.values(), ids=OPS.keys())
SIZES = {"G": 2, "S": 6, "D": 4, "E": 3, "F": 5, "K": 2, "M": 2 * 3, "N": 2, "T": 7, "Q": 5, "P": 3, "O": 9, "U": 5}
SIZES |= {"1": 1, "H": 1, "J": 1, "C": 2, "A": 2}
MERGE = 2  # number of merged tokens: of T = 7 tokens, U = 5 remain
CAPACITY = 3
ROUTES = ("slot", "weight", "src")
WEIGHTS = {"w", "w1", "w2", "wg", "wq", "wk", "wv", "wo"}


def _choices() -> Iterator[object]:
    """Yield every op with each choice of its types and each distinct set of its optional inputs."""
    for op, (name, given) in itertools.product(OPS.values(), GIVEN.items()):
        for types in op.type_choices:
            weights = types.get("W", "float")
            if given == USUAL or given_inputs(op, weights, given) != given_inputs(op, weights):
                words = "-".join(f"{of}-{types[of]}" for of in ("W", "T") if of in types) or "float"
                yield pytest.param(op, types, given, id=f"{op.name}-{words}-{name}")


def test_there_is_one_function_per_op_and_no_other() -> None:
    assert [function.name for function in function_bodies(BodyOptions())] == list(OPS)


@pytest.mark.sample(100)
@EVERY_WEIGHT
@EVERY_SET
@pytest.mark.parametrize("dispatch_bf16", [False, True])
@EVERY_OP
def test_the_onnx_function_has_the_names_of_the_table(
    op: Op, dispatch_bf16: bool, given: frozenset[str], weights: ElementType
) -> None:
    kind = WEIGHT_TYPES[weights]
    activation = ACTIVATIONS[dispatch_bf16]  # also tests activation 0, for which graphs omit the attribute
    options = BodyOptions(dense=kind, experts=kind, dispatch_bf16=dispatch_bf16, given=given, activation=activation)
    function = function_body(op.name, options)
    assert function.domain == DOMAIN
    # If a later input is present, a function must also declare the omitted inputs before it.
    last = op.inputs.index(given_inputs(op, weights, given)[-1])
    assert list(function.input) == [value.name for value in op.inputs[: last + 1]]
    assert list(function.output) == [value.name for value in made_outputs(op, given)]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in function.attribute_proto}
    plugin = {name: value.encode() for name, value in PLUGIN_ATTRIBUTES.items()}
    named = {name: value for name, value in op.attributes.items() if name != "activation" or dispatch_bf16}
    assert attributes == {**named, **plugin}
    assert not function.attribute  # attributes without a default would be compulsory
    assert {(o.domain, o.version) for o in function.opset_import} == {
        ("", max(OPSET, kind.opset)),
        (DOMAIN, VERSION),
    }


@pytest.mark.sample(50)
@pytest.mark.parametrize("name", ["reference", *RUNNERS])
@pytest.mark.parametrize(("op", "types", "given"), [*_choices()])
def test_the_outputs_have_the_shapes_and_types_of_the_table(op: Op, types: Types, given: frozenset[str], name: str) -> None:
    if name == "openvino" and types.get("W") == "i4":
        pytest.skip("OpenVINO takes int4 weights of known shape, which the models of test_model_variants have")
    chosen = types.get("W", "float"), types.get("T", "float")
    values = given_inputs(op, chosen[0], given)
    inputs = [sample_input(op, op.inputs.index(value), types) if value in values else None for value in op.inputs]
    if name == "reference":
        run = functools.partial(run_reference, op)
    else:
        run, inputs = runner(name, op.name, *chosen, given=given), [array for array in inputs if array is not None]
    merges = op.name == "VmoeMerge" or (op.name == "VmoeAttentionBlock" and "merge" in given)
    sizes = SIZES if merges else {**SIZES, "U": SIZES["T"]}
    found = [(output.shape, output.dtype) for output in run(*inputs)]
    made = made_outputs(op, given)
    assert found == [(tuple(sizes[dim] for dim in value.dims), NUMPY_TYPES[types[value.type]]) for value in made]


@EVERY_OP
def test_onnx_shape_inference_knows_the_ranks_and_types_of_the_table(op: Op) -> None:
    model = one_node_model(op)
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    inlined = onnx.inliner.inline_local_functions(model)
    inferred = onnx.shape_inference.infer_shapes(inlined, check_type=True, strict_mode=True)
    for output, value in zip(inferred.graph.output, made_outputs(op), strict=True):
        assert len(output.type.tensor_type.shape.dim) == len(value.dims)


def sample_input(op: Op, position: int, types: Types | None = None) -> np.ndarray:
    """Return an array for the input at `position`, with the sizes in SIZES."""
    value = op.inputs[position]
    if value.type == "i64":
        numbers = dict(zip((*SETTINGS, *POLICIES), (CAPACITY, SIZES["K"], 1, 0, SIZES["E"]), strict=True))
        numbers["merge"] = MERGE
        return np.array([numbers[value.name]], np.int64)
    element = (types or op.type_choices[0])[value.type]
    shape = tuple(SIZES[dim] for dim in (value.grouped_dims if element == "fp16" and value.scale_of else value.dims))
    if op.name == "VmoeExpertBlock" and value.name in ROUTES:
        gates = np.random.default_rng(0).random((SIZES["G"], SIZES["S"], SIZES["E"]), np.float32)
        routes = run_reference(OPS["VmoeRoute"], gates, *settings(CAPACITY, SIZES["K"], True))
        return routes[ROUTES.index(value.name)]  # consistent slots and tokens
    rng = np.random.default_rng(position)
    if value.type != "i32":
        return np.asarray(rng.random(shape, np.float32) * 8, NUMPY_TYPES[element])
    limit = {"src": SIZES["G"] * SIZES["S"], "slot": SIZES["E"] * SIZES["M"], "token": SIZES["T"]}[value.name]
    return rng.integers(0 if value.name == "token" else -1, limit, shape, dtype=np.int32)
