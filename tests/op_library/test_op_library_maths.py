"""Compare the op library's float ops with the float64 reference.

The tests use odd sizes, and run on the scalar and on the best CPU path.
"""

from __future__ import annotations

import numpy as np
import pytest
from cpu_paths import need_op_library, outputs_of, run_calls, supported_paths
from op_models import mlp_weights, node_call, normal, run_exact

from vmoe_export.ops.table import ACTIVATIONS, OPS

pytestmark = pytest.mark.fast

need_op_library()

# tests/cpp/core_check.cc compares the remaining paths with the scalar path.
CHECKED_PATH = pytest.mark.parametrize("path", sorted({supported_paths()[0], "scalar"}))
SIZES = (1, 2, 3, 7, 15, 16, 17, 31, 33, 47, 48, 49, 65, 97, 100, 130)
WEIGHTS = ("w1", "w2")

Inputs = dict[str, np.ndarray]


@CHECKED_PATH
def test_a_linear_layer_is_the_reference(path: str) -> None:
    rng = np.random.default_rng(1)
    made = [
        {"x": normal(rng, images, tokens, depth), "w": small(rng, depth, columns), "b": normal(rng, columns)}
        for depth, columns in zip(SIZES, rng.permutation(SIZES), strict=True)
        for images, tokens in ((1, 1), (2, 5), (1, 17), (3, 50))
    ]
    check(path, "VmoeLinear", made, constants=("w",))


@CHECKED_PATH
def test_a_dense_mlp_is_the_reference(path: str) -> None:
    rng = np.random.default_rng(2)
    made = []
    for width, hidden in zip(SIZES, rng.permutation(SIZES), strict=True):
        mlp = mlp_weights(rng, width, hidden)
        made += [{"x": normal(rng, images, tokens, width), **mlp} for images, tokens in ((1, 1), (2, 9), (1, 131))]
    check(path, "VmoeDenseMlp", made, constants=WEIGHTS)


@CHECKED_PATH
def test_attention_is_the_reference(path: str) -> None:
    rng = np.random.default_rng(3)
    for heads in (1, 2, 3):
        made = []
        for size, tokens in zip(SIZES, rng.permutation(SIZES), strict=True):
            for images, queries in ((1, 1), (2, tokens), (1, 9)):
                shapes = {"q": queries, "k": tokens, "v": tokens}
                made.append({name: normal(rng, images, rows, heads * size) for name, rows in shapes.items()})
        made.append({name: normal(rng, 2, 1, heads * 21) for name in ("q", "k", "v")})
        check(path, "VmoeAttention", made, attributes={"num_heads": heads})


@CHECKED_PATH
def test_experts_are_the_reference(path: str) -> None:
    rng = np.random.default_rng(5)
    made = [
        {"buf": normal(rng, experts, places, width), **mlp_weights(rng, width, hidden, experts)}
        for width, hidden in zip(SIZES, rng.permutation(SIZES), strict=True)
        for experts, places in ((1, 1), (3, 11), (2, 67))
    ]
    check(path, "VmoeExpertMlp", made, constants=WEIGHTS)
    check(path, "VmoeExpertMlp", made)


@CHECKED_PATH
def test_gates_are_the_reference(path: str) -> None:
    rng = np.random.default_rng(10)
    made = [
        {"x": normal(rng, groups, tokens, width), "router": small(rng, width, experts)}
        for width, experts in zip(SIZES, rng.permutation(SIZES), strict=True)
        for groups, tokens in ((1, 1), (2, 7), (3, 40))
    ]
    check(path, "VmoeGates", made, constants=("router",))
    check(path, "VmoeGates", made)


@CHECKED_PATH
def test_what_is_not_a_number_stays_in_its_row(path: str) -> None:
    rng = np.random.default_rng(9)
    for op_name, rows in (("VmoeLinear", "x"), ("VmoeDenseMlp", "x"), ("VmoeExpertMlp", "buf"), ("VmoeAttention", "q")):
        x = normal(rng, 1, 21, 19)
        spoilt = x.copy()
        spoilt[0, 4, 3], spoilt[0, 9, 0] = np.nan, np.inf
        others: Inputs = {
            "VmoeLinear": {"w": normal(rng, 19, 5), "b": normal(rng, 5)},
            "VmoeDenseMlp": mlp_weights(rng, 19, 35),
            "VmoeExpertMlp": mlp_weights(rng, 19, 35, 1),
            "VmoeAttention": {"k": normal(rng, 1, 6, 19), "v": normal(rng, 1, 6, 19)},
        }[op_name]
        (clean,), (found,) = outputs_of(run_calls([node_call(op_name, {rows: x_, **others}) for x_ in (x, spoilt)], path))
        assert np.isnan(found[0, 4]).all(), op_name
        assert not np.isfinite(found[0, 9]).all(), op_name
        untouched = [row for row in range(21) if row not in (4, 9)]
        np.testing.assert_array_equal(found[0, untouched], clean[0, untouched], err_msg=op_name)


def check(
    path: str,
    op_name: str,
    made: list[Inputs],
    attributes: dict[str, int] | None = None,
    constants: tuple[str, ...] = (),
) -> None:
    given = [{**(attributes or {}), **activation_of(op_name, number)} for number in range(len(made))]
    calls = [node_call(op_name, inputs, each, constants=constants) for inputs, each in zip(made, given, strict=True)]
    for (found,), inputs, each in zip(outputs_of(run_calls(calls, path)), made, given, strict=True):
        # an omitted input, such as attention's sizes of merged tokens, is passed as None
        arrays = [inputs.get(value.name) for value in OPS[op_name].inputs]
        (expected,) = run_exact(OPS[op_name], *arrays, **each)
        shapes = {name: array.shape for name, array in inputs.items()}
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5, err_msg=str(shapes))


def activation_of(op_name: str, number: int) -> dict[str, int]:
    """Return the activation of call `number` as an attribute, or no attribute if the op has no activation.

    Each activation is used in three successive calls.
    """
    return {"activation": number // 3 % len(ACTIVATIONS)} if "activation" in OPS[op_name].attributes else {}


def small(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Return random weights. Multiplying values by them does not change the values' magnitude much."""
    return normal(rng, *shape) / np.float32(np.sqrt(shape[-2]))
