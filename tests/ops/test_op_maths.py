"""Compare the float ops in float32 with the numpy reference in float64.

Also check rounding to bfloat16, bit by bit.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx.parser
import pytest
from op_models import (
    MERGING,
    OP_LIBRARY,
    RUNNERS,
    USUAL,
    WITH_POLICIES,
    Run,
    given_inputs,
    made_outputs,
    run_exact,
    run_graph,
    runner,
)

from vmoe_export.ops.table import ACTIVATIONS, IR_VERSION, OPS, OPSET, Op
from vmoe_export.weight_types.bfloat16 import round_bf16, round_bf16_lines

EVERY_RUNNER = pytest.mark.parametrize("name", RUNNERS)


@pytest.mark.sample(60)
@pytest.mark.parametrize("name", [name for name in RUNNERS if name in ("onnxruntime-inlined", OP_LIBRARY)])
@pytest.mark.parametrize("given", [USUAL, WITH_POLICIES, MERGING], ids=["official", "policies", "merging"])
@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_no_groups_give_empty_outputs(op: Op, given: frozenset[str], name: str) -> None:
    sizes = {"G": 0, "N": 0, "M": 0, "S": 7, "T": 7, "Q": 7, "D": 6, "E": 4, "F": 6, "K": 2, "P": 3, "O": 9}
    sizes |= {"1": 1, "C": 2, "A": 3}
    dtypes, numbers = {"i32": np.int32, "i64": np.int64}, {"bpr": 1, "pool": 1}
    inputs = {
        value.name: np.full(
            [sizes[dim] for dim in value.dims], numbers.get(value.name, 2), dtypes.get(value.type, np.float32)
        )
        for value in given_inputs(op, given=given)
    }
    if ("merge" in inputs or op.name == "VmoeRotate") and name != OP_LIBRARY:
        pytest.skip("ONNX Runtime makes one Reshape of several that can't tell no images, which no engine asks for")
    found = runner(name, op.name, given=given)(*inputs.values())
    # With a pool, one slot remains even if there are no images; that slot is empty. In expert choice, each token has one
    # choice per expert, so K = E = 4.
    one_slot = {"M": 1 if given == WITH_POLICIES and op.name in ("VmoeRoute", "VmoeRouterBlock") else 0}
    choices = sizes | one_slot | ({"K": 4} if op.name == "VmoeChooseTokens" else {})
    choices["U"] = 5 if "merge" in inputs else 7
    made = made_outputs(op, given)
    assert [output.shape for output in found] == [tuple(choices[dim] for dim in value.dims) for value in made]


@EVERY_RUNNER
@pytest.mark.parametrize("activation", range(len(ACTIVATIONS)))
def test_the_expert_mlp_activates_numbers_of_every_size(activation: int, name: str) -> None:
    # The MLP is one expert with one feature and weights 1, so its output is the activation itself.
    x = np.linspace(-12, 12, 4801, dtype=np.float32).reshape(1, -1, 1)
    one, nothing = np.ones((1, 1, 1), np.float32), np.zeros((1, 1), np.float32)
    x[..., :4, 0] = np.nan, 1e4, -1e4, -0.0
    (found,) = runner(name, "VmoeExpertMlp", activation=activation)(x, one, nothing, one, nothing)
    v = x.astype(np.float64)
    expected = [
        0.5 * v * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3))),
        0.5 * v * (1 + np.vectorize(math.erf)(v / math.sqrt(2))),
        *(v * np.where(v > 0, 1, np.exp(a * np.minimum(v, 0))) / (1 + np.exp(-a * np.abs(v))) for a in (1.702, 1)),
    ]
    np.testing.assert_allclose(found, expected[activation], rtol=1e-6, atol=2e-6)
    (reference,) = run_exact(OPS["VmoeExpertMlp"], x, one, nothing, one, nothing, activation=activation)
    np.testing.assert_allclose(reference, expected[activation], rtol=0, atol=1e-8)


@pytest.mark.sample(4)
@EVERY_RUNNER
@pytest.mark.parametrize("exponent", [1, 127])
def test_every_mantissa_rounds_to_the_nearest_bfloat16(exponent: int, name: str) -> None:
    bits = np.arange(2**23, dtype=np.uint32) | np.uint32(exponent << 23)
    # Make every second number negative in the second half of the array. This tests both signs without twice the work.
    bits[2**22 + 1 :: 2] |= np.uint32(1 << 31)
    values = bits.view(np.float32)
    (found,) = _rounding(name)(values)
    np.testing.assert_array_equal(found.view(np.uint32), round_bf16(values).view(np.uint32))


def _rounding(name: str) -> Run:
    """Return a function that rounds to bfloat16 as the ops in the runtime `name` do.

    The function does nothing else.
    """
    model = onnx.parser.parse_model(
        f'<ir_version: {IR_VERSION}, opset_import: ["": {OPSET}]>'
        f"rounding (float[n] x) => (float[n] y) {{ {round_bf16_lines('x', 'y')} }}"
    )
    onnx.checker.check_model(model, full_check=True)
    return run_graph(name, model)
