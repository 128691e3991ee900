"""Tests for ops on float16 and bfloat16 tokens, in every runtime.

Tokens must be copied bit by bit, and summed in float32.
"""

from __future__ import annotations

import numpy as np
import pytest
from moe_calls import moe_calls, same_values
from op_models import NUMPY_TYPES, RUNNERS, run_reference, runner

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
    # The outputs in bfloat16 pass through float32, which may change the bits of a NaN. Therefore, positions of NaN are
    # compared separately from the bits of other values.
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
    # A sum of two float32 products does not depend on the order of the products. It can differ only if a runtime fuses
    # multiplication and addition.
    (expected,) = run_reference(OPS["VmoeCombine"], out, slot, weight)
    different = y != expected
    assert different.mean() < 2e-3
    (exact,) = run_reference(
        OPS["VmoeCombine"], out.astype(np.float64), slot, np.where(slot < 0, 0, weight.astype(np.float64))
    )
    assert (np.abs(y.astype(np.float64) - exact) <= _half_spacing(exact, tokens) * 1.001 + 1e-6).all()
    # Make sure that the test would notice if each product were rounded to the short type, and not only the sum.
    products = (np.where(slot < 0, 0, weight)[..., None] * out.reshape(-1, 16)[slot]).astype(out.dtype)
    twice = products.astype(np.float32).sum(axis=2).astype(out.dtype)
    assert (twice != expected).mean() > 10 * different.mean()


@pytest.mark.sample(4)
@EVERY_RUNNER
@pytest.mark.parametrize("tokens", ("float", *SHORT))
def test_route_dispatch_is_route_and_dispatch(tokens: ElementType, name: str) -> None:
    run = runner(name, "VmoeRouteDispatch", tokens=tokens)
    for call in moe_calls(7, 40):
        if (call.op, call.tokens) == ("VmoeRouteDispatch", tokens):
            gates, x, *setting = (*call.inputs.values(), *(np.array([number]) for number in call.attributes.values()))
            slot, weight, src, _ = run_reference(OPS["VmoeRoute"], gates, *setting)
            expected = [slot, weight, *run_reference(OPS["VmoeDispatch"], x, src)]
            assert same_values(run(gates, x, *setting), expected), call
            assert same_values(run_reference(OPS["VmoeRouteDispatch"], gates, x, *setting), expected), call


def _half_spacing(exact: np.ndarray, tokens: ElementType) -> np.ndarray:
    bits = {"fp16": 11, "bf16": 8}[tokens]
    smallest = {"fp16": -14, "bf16": -126}[tokens]
    exponent = np.maximum(np.frexp(np.abs(exact))[1] - 1, smallest)
    return np.ldexp(0.5, exponent - bits + 1)
