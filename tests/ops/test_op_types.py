"""Tokens in float16 and bfloat16, in every runtime: copied bits, sums in float32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from op_models import NUMPY_TYPES, RUNNERS, run_reference, runner, settings

from vmoe_export.ops.table import OPS, ElementType

EVERY_RUNNER = pytest.mark.parametrize("name", RUNNERS)
SHORT: tuple[ElementType, ...] = ("fp16", "bf16")


@EVERY_RUNNER
@pytest.mark.parametrize("tokens", SHORT)
def test_dispatch_copies_every_short_value(tokens: ElementType, name: str) -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    x = bits.view(NUMPY_TYPES[tokens]).reshape(4, 64, 256)
    src = np.random.default_rng(0).permutation(np.arange(-1, 255, dtype=np.int32)).reshape(2, 128)
    (buf,) = runner(name, "VmoeDispatch", tokens=tokens)(x, src)
    assert buf.dtype == x.dtype
    (expected,) = run_reference(OPS["VmoeDispatch"], x, src)
    # bfloat16 goes in and out of the runtimes as float32, which leaves NaNs NaN but not their bits.
    np.testing.assert_array_equal(np.isnan(buf.astype(np.float32)), np.isnan(expected.astype(np.float32)))
    numbers = ~np.isnan(expected.astype(np.float32))
    np.testing.assert_array_equal(buf[numbers].view(np.uint16), expected[numbers].view(np.uint16))


@EVERY_RUNNER
@pytest.mark.parametrize("tokens", SHORT)
def test_combine_adds_in_float32_and_rounds_once(tokens: ElementType, name: str) -> None:
    if (tokens, name) == ("bf16", "openvino"):
        pytest.skip("OpenVINO leaves out a cast to bfloat16 and back, so nothing is rounded")
    rng = np.random.default_rng(7)
    out = rng.standard_normal((4, 30, 16)).astype(NUMPY_TYPES[tokens])
    slot = rng.integers(-1, 120, (3, 50, 2), dtype=np.int32)
    weight = rng.random(slot.shape, np.float32)
    weight[slot == -1] = np.nan
    (y,) = runner(name, "VmoeCombine", tokens=tokens)(out, slot, weight)
    assert y.dtype == out.dtype
    # A sum of two products in float32 is the same in any order, but for a fused multiply and add.
    (expected,) = run_reference(OPS["VmoeCombine"], out, slot, weight)
    different = y != expected
    assert different.mean() < 2e-3
    (exact,) = run_reference(
        OPS["VmoeCombine"], out.astype(np.float64), slot, np.where(slot < 0, 0, weight.astype(np.float64))
    )
    assert (np.abs(y.astype(np.float64) - exact) <= _half_spacing(exact, tokens) * 1.001 + 1e-6).all()
    # Rounding each product to the short type as well would show.
    products = (np.where(slot < 0, 0, weight)[..., None] * out.reshape(-1, 16)[slot]).astype(out.dtype)
    twice = products.astype(np.float32).sum(axis=2).astype(out.dtype)
    assert (twice != expected).mean() > 10 * different.mean()


@EVERY_RUNNER
@pytest.mark.parametrize("tokens", ("float", *SHORT))
def test_route_dispatch_is_route_and_dispatch(tokens: ElementType, name: str) -> None:
    run = runner(name, "VmoeRouteDispatch", tokens=tokens)
    for number in range(40):
        rng = np.random.default_rng(number)
        values, setting = _routing_case(rng, number)
        x = rng.standard_normal((*values.shape[:2], 5)).astype(NUMPY_TYPES[tokens])
        expected = run_reference(OPS["VmoeRouteDispatch"], values, x, *setting)
        _assert_same(run(values, x, *setting), expected)
        slot, weight, src, _ = run_reference(OPS["VmoeRoute"], values, *setting)
        _assert_same(expected, [slot, weight, *run_reference(OPS["VmoeDispatch"], x, src)])


def _assert_same(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours.astype(np.float64), theirs.astype(np.float64))


def _routing_case(rng: np.random.Generator, number: int) -> tuple[np.ndarray, list[np.ndarray]]:
    groups, tokens, experts = (int(rng.integers(1, high)) for high in (4, 33, 10))
    values = rng.dirichlet(np.ones(experts), (groups, tokens))
    if number % 4 == 1:
        values[rng.random(values.shape) < 0.2] = np.nan
    elif number % 4 == 2:
        values[rng.random(values.shape) < 0.2] *= -1
        values[rng.random(values.shape) < 0.1] = np.inf
    elif number % 4 == 3:
        values = np.round(values * 4) / 4
    k = int(rng.integers(1, min(experts, 4) + 1))
    return values.astype(np.float32), settings(int(rng.integers(1, 9)), k, bool(number % 2))


def _half_spacing(exact: np.ndarray, tokens: ElementType) -> np.ndarray:
    bits = {"fp16": 11, "bf16": 8}[tokens]
    smallest = {"fp16": -14, "bf16": -126}[tokens]
    exponent = np.maximum(np.frexp(np.abs(exact))[1] - 1, smallest)
    return np.ldexp(0.5, exponent - bits + 1)
