"""The table of ops holds every implementation to the same names, types and shapes."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import pytest
from op_models import (
    NUMPY_TYPES,
    RUNNERS,
    SETTINGS,
    given_inputs,
    made_outputs,
    one_node_model,
    run_reference,
    runner,
    settings,
)

from vmoe_export.ops.functions import BodyOptions, function_bodies, function_body
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
WITH_POLICIES = pytest.mark.parametrize("policies", [False, True], ids=["official", "policies"])
MERGING = pytest.mark.parametrize("merging", [False, True], ids=["whole", "merging"])
EVERY_OP = pytest.mark.parametrize("op", OPS.values(), ids=OPS.keys())
SIZES = {"G": 2, "S": 6, "D": 4, "E": 3, "F": 5, "K": 2, "M": 2 * 3, "N": 2, "T": 7, "Q": 5, "P": 3, "O": 9, "U": 5}
SIZES |= {"1": 1, "H": 1, "J": 1, "C": 2, "A": 2}
MERGE = 2  # of T, which leaves U
CAPACITY = 3
ROUTES = ("slot", "weight", "src")
WEIGHTS = {"w", "w1", "w2", "wq", "wk", "wv", "wo"}
CHOICES = [(op, types) for op in OPS.values() for types in op.type_choices]


def _words(types: Types) -> str:
    return "-".join(f"{name}-{types[name]}" for name in ("W", "T") if name in types) or "float"


def test_there_is_one_function_per_op_and_no_other() -> None:
    assert [function.name for function in function_bodies(BodyOptions())] == list(OPS)


@EVERY_WEIGHT
@WITH_POLICIES
@MERGING
@pytest.mark.parametrize("dispatch_bf16", [False, True])
@EVERY_OP
def test_the_onnx_function_has_the_names_of_the_table(
    op: Op, dispatch_bf16: bool, merging: bool, policies: bool, weights: ElementType
) -> None:
    kind = WEIGHT_TYPES[weights]
    options = {"dispatch_bf16": dispatch_bf16, "policies": policies, "merging": merging}
    options["activation"] = ACTIVATIONS[dispatch_bf16]  # graphs don't say the first one
    function = function_body(op.name, BodyOptions(dense=kind, experts=kind, **options))
    assert function.domain == DOMAIN
    # An input that is left out is declared where others stand behind it.
    stand_behind = merging or (op.name.endswith("AttentionBlock") and weights in ("i8", "i4"))
    assert list(function.input) == [value.name for value in given_inputs(op, weights, policies, stand_behind)]
    assert list(function.output) == [value.name for value in made_outputs(op, merging)]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in function.attribute_proto}
    plugin = {name: value.encode() for name, value in PLUGIN_ATTRIBUTES.items()}
    named = {name: value for name, value in op.attributes.items() if name != "activation" or dispatch_bf16}
    assert attributes == {**named, **plugin}
    assert not function.attribute  # attributes without a default would be compulsory
    assert {(o.domain, o.version) for o in function.opset_import} == {
        ("", max(OPSET, kind.opset)),
        (DOMAIN, VERSION),
    }


@pytest.mark.parametrize("name", ["reference", *RUNNERS])
@MERGING
@pytest.mark.parametrize(("op", "types"), CHOICES, ids=[f"{op.name}-{_words(types)}" for op, types in CHOICES])
def test_the_outputs_have_the_shapes_and_types_of_the_table(op: Op, types: Types, merging: bool, name: str) -> None:
    if name == "openvino" and types.get("W") == "i4":
        pytest.skip("OpenVINO takes int4 weights of known shape, which the models of test_model_variants have")
    chosen = types.get("W", "float"), types.get("T", "float")
    if merging and given_inputs(op, merging=True) == given_inputs(op):
        pytest.skip("it is no op that may merge tokens or not")
    inputs = [sample_input(op, op.inputs.index(value), types) for value in given_inputs(op, chosen[0], merging=merging)]
    reference = functools.partial(run_reference, op)
    run = reference if name == "reference" else runner(name, op.name, *chosen, merging=merging)
    sizes = SIZES if merging or op.name == "VmoeMerge" else {**SIZES, "U": SIZES["T"]}
    found = [(output.shape, output.dtype) for output in run(*inputs)]
    made = made_outputs(op, merging)
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
    """An input of the op with the sizes of SIZES."""
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
        return routes[ROUTES.index(value.name)]  # slots and tokens that belong together
    rng = np.random.default_rng(position)
    if value.type != "i32":
        return np.asarray(rng.random(shape, np.float32) * 8, NUMPY_TYPES[element])
    limit = {"src": SIZES["G"] * SIZES["S"], "slot": SIZES["E"] * SIZES["M"], "token": SIZES["T"]}[value.name]
    return rng.integers(0 if value.name == "token" else -1, limit, shape, dtype=np.int32)
