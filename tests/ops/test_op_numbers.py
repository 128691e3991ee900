"""Tests for matrix products in int8, which are compared bit by bit, and for the expert block, in every runtime."""

from __future__ import annotations

import numpy as np
import pytest
from op_models import OP_LIBRARY, RUNNERS, mlp_weights, normal, run_exact, run_reference, runner, settings

from vmoe_export.ops.table import OPS, ElementType
from vmoe_export.weight_types.bfloat16 import round_bf16
from vmoe_export.weight_types.int8 import quantize_columns

EVERY_RUNNER = pytest.mark.parametrize("name", RUNNERS)
CERTAIN = 16  # from this value on, every formula of GELU returns its input exactly


@EVERY_RUNNER
@pytest.mark.parametrize(("depth", "columns"), [(1, 1), (7, 5), (33, 97), (64, 32), (130, 31), (768, 96)])
def test_an_int8_product_has_the_bits_of_the_reference(depth: int, columns: int, name: str) -> None:
    rng = np.random.default_rng(depth)
    x, b = normal(rng, 2, 13, depth) * 3, normal(rng, columns)
    w, scale = quantize_columns(normal(rng, depth, columns))
    x[1, 5], w[:, 0] = 0, 0
    found = _check_bits(name, "VmoeLinear", x, w, b, scale)
    np.testing.assert_array_equal(found[1, 5], b)
    np.testing.assert_array_equal(found[..., 0], np.full((2, 13), b[0]))


@EVERY_RUNNER
def test_sums_are_exact_where_float32_is_not(name: str) -> None:
    # The sum of 3001 products of up to 127 * 127 needs more than the 24 bits of a float32.
    rng = np.random.default_rng(0)
    w = rng.integers(120, 128, (3001, 9)).astype(np.int8)
    x = rng.integers(120, 128, (1, 5, 3001)).astype(np.float32)
    x[..., 0] = 127  # the largest value, so that the scale of every row is 1
    (found,) = runner(name, "VmoeLinear", "i8")(x, w, np.zeros(9, np.float32), np.ones(9, np.float32))
    exact = x.astype(np.int64) @ w.astype(np.int64)
    assert (exact > 2**24).all()
    # OpenVINO sums in float32.
    np.testing.assert_allclose(found, exact.astype(np.float32), rtol=1e-6 if name == "openvino" else 0)


@EVERY_RUNNER
def test_values_halfway_between_two_integers_go_to_the_even_one(name: str) -> None:
    halves = np.arange(-126.5, 127, 1, np.float32)
    x = np.full((1, 2, len(halves) + 1), 127, np.float32)
    x[0, :, 1:] = halves, np.nextafter(halves, np.float32(0))
    unit = np.eye(x.shape[-1], dtype=np.int8)
    nothing, one = np.zeros(len(unit), np.float32), np.ones(len(unit), np.float32)
    (found,) = runner(name, "VmoeLinear", "i8")(x, unit, nothing, one)
    np.testing.assert_array_equal(found[0, 0, 1:], 2 * np.rint(halves / 2))
    np.testing.assert_array_equal(found[0, 1, 1:], np.trunc(halves))


@EVERY_RUNNER
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 5, 63])
def test_a_row_that_is_not_finite_gives_nothing_finite(value: float, place: int, name: str) -> None:
    rng = np.random.default_rng(3)
    x, b = normal(rng, 1, 3, 64), normal(rng, 7)
    w, scale = quantize_columns(normal(rng, 64, 7))
    (clean,) = runner(name, "VmoeLinear", "i8")(x, w, b, scale)
    x[0, 1, place] = value
    (found,) = runner(name, "VmoeLinear", "i8")(x, w, b, scale)
    assert not np.isfinite(found[0, 1]).any()
    np.testing.assert_array_equal(found[0, ::2], clean[0, ::2])


@EVERY_RUNNER
@pytest.mark.parametrize(("hidden", "chunk"), [(10, 0), (12, 4), (15, 3), (128, 64), (192, 64), (1536, 768)])
def test_the_hidden_features_are_quantized_in_chunks(hidden: int, chunk: int, name: str) -> None:
    skip_chunks_of_no_tile(name, chunk)
    rng = np.random.default_rng(hidden)
    x, (w1, b1, w2, b2, s1, s2) = _mlp(rng, (2, 9), 17, hidden)
    _check_bits(name, "VmoeDenseMlp", x, w1, b1, w2, b2, s1, s2, hidden=hidden, hidden_chunk=chunk)


@EVERY_RUNNER
@pytest.mark.parametrize(("hidden", "chunk"), [(10, 0), (12, 4), (15, 3), (192, 64)])
@pytest.mark.parametrize("dispatch_bf16", [False, True])
@pytest.mark.parametrize("experts", [1, 3])
def test_experts_are_quantized_in_chunks_after_the_dispatcher_has_rounded(
    experts: int, dispatch_bf16: bool, hidden: int, chunk: int, name: str
) -> None:
    skip_chunks_of_no_tile(name, chunk)
    rng = np.random.default_rng(hidden)
    parts = [_mlp(rng, (7,), 17, hidden) for _ in range(experts)]
    buf = np.stack([x for x, _ in parts])
    weights = [np.stack(arrays) for arrays in zip(*(arrays for _, arrays in parts), strict=True)]
    attributes = {"hidden": hidden, "hidden_chunk": chunk, "dispatch_bf16": int(dispatch_bf16)}
    found = _check_bits(name, "VmoeExpertMlp", buf, *weights, **attributes)
    assert (found == round_bf16(found)).all() == dispatch_bf16


def skip_chunks_of_no_tile(name: str, chunk: int) -> None:
    if name == OP_LIBRARY and chunk % 64:
        pytest.skip("the op library takes chunks of whole tiles, as exports have them")


@EVERY_RUNNER
@pytest.mark.parametrize("weights", ["float", "bf16", "i8"])
@pytest.mark.parametrize("seed", range(3))
def test_an_expert_block_is_the_reference(seed: int, weights: ElementType, name: str) -> None:
    rng = np.random.default_rng(seed)
    width, hidden, experts = ((24, 40, 3), (17, 192, 5), (64, 128, 2))[seed]
    x = normal(rng, 3, 7 + seed, width)
    norm = [1 + normal(rng, width) * np.float32(0.2), normal(rng, width) * np.float32(0.2)]
    router = normal(rng, width, experts)
    slot, weight, src, _ = run_reference(OPS["VmoeRouterBlock"], x, *norm, router, *settings(4, min(2, experts), True))
    assert (slot == -1).any()
    mlp = mlp_weights(rng, width, hidden, experts, weights=weights).values()
    attributes = {"hidden_chunk": (0, 64, 64)[seed] if weights == "i8" else 0, "dispatch_bf16": int(seed == 1)}
    inputs = [x, *norm, slot, weight, src, *mlp]
    (found,) = runner(name, "VmoeExpertBlock", weights, hidden=hidden, **attributes)(*inputs)
    (expected,) = run_exact(OPS["VmoeExpertBlock"], *inputs, **attributes)
    difference = np.abs(found - expected)
    if weights == "float" and not attributes["dispatch_bf16"]:
        assert difference.max() <= 1e-5
        return
    # A few values round differently in float32 than in double precision. Each of them changes its row a little.
    assert difference.max() <= 3e-2 * np.abs(expected).max()
    assert (difference <= 1e-5).mean() > 0.6


def _check_bits(name: str, op: str, *inputs: np.ndarray, hidden: int = 0, **attributes: int) -> np.ndarray:
    """Run an int8 op in a runtime, compare its output bit by bit with the float32 reference, and return the output.

    OpenVINO's output may differ slightly, because OpenVINO fuses operations.
    """
    (found,) = runner(name, op, "i8", hidden=hidden, **attributes)(*inputs)
    (expected,) = run_reference(OPS[op], *inputs, **attributes)
    if name == "openvino":
        size = np.abs(expected).max()
        # If values are rounded to bfloat16, a few of them may become the neighbouring bfloat16 value.
        assert (np.abs(found - expected) <= 1e-6 * size).mean() >= (0.99 if attributes.get("dispatch_bf16") else 1)
        assert np.abs(found - expected).max() <= 2**-7 * size
    else:
        np.testing.assert_array_equal(found, expected)
    return found


def _mlp(rng: np.random.Generator, rows: tuple[int, ...], width: int, hidden: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the input and the int8 weights of an MLP. Its hidden features are so large that GELU returns them unchanged."""
    x = normal(rng, *rows, width)
    w1, s1 = quantize_columns(normal(rng, width, hidden))
    w2, s2 = quantize_columns(normal(rng, hidden, width))
    b1 = np.float32(CERTAIN + 30) + rng.random(hidden, np.float32) * 40
    assert (run_reference(OPS["VmoeLinear"], x.reshape(1, -1, width), w1, b1, s1)[0] > CERTAIN).all()
    return x, [w1, b1, w2, normal(rng, width), s1, s2]
