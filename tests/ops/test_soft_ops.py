"""Compare the Soft MoE ops in float32 with the numpy reference in float64, in every runtime."""

from __future__ import annotations

import numpy as np
import pytest
from op_models import RUNNERS, normal, run_exact, runner

from vmoe_export.ops.table import OPS

pytestmark = pytest.mark.fast

EVERY_RUNNER = pytest.mark.parametrize("name", RUNNERS)
SHAPES = [(1, 1, 1, 1, 1), (1, 4, 7, 3, 1), (2, 16, 33, 4, 3), (3, 50, 48, 5, 2), (2, 21, 65, 1, 17), (1, 40, 130, 16, 8)]
"""G, S, D, E and P."""
EVERY_SHAPE = pytest.mark.parametrize(("groups", "tokens", "width", "experts", "slots"), SHAPES)


@EVERY_RUNNER
@EVERY_SHAPE
def test_the_soft_router_is_the_reference(groups: int, tokens: int, width: int, experts: int, slots: int, name: str) -> None:
    rng = np.random.default_rng(width)
    # The scale of 7.5 makes shares uneven. The norms of tokens and of slots vary widely; one token and one slot are zero.
    x = normal(rng, groups, tokens, width) * np.float32(10.0) ** rng.integers(-3, 3, (groups, tokens, 1)).astype(np.float32)
    mu = normal(rng, width, experts, slots) * np.float32(10.0) ** rng.integers(-3, 3, (1, experts, slots)).astype(np.float32)
    x[-1, -1], mu[:, -1, -1] = 0, 0
    dispatch, combine = check(name, "VmoeSoftRouter", x, mu, np.array(7.5, np.float32))
    np.testing.assert_allclose(combine[-1, -1], 1 / (experts * slots), rtol=1e-6)
    np.testing.assert_allclose(dispatch[:, :, -1, -1], 1 / tokens, rtol=1e-6)
    np.testing.assert_allclose(dispatch.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(combine.sum(axis=(2, 3)), 1, rtol=1e-5)


@EVERY_RUNNER
@EVERY_SHAPE
@pytest.mark.parametrize("dispatch_bf16", [0, 1])
def test_slots_and_tokens_are_the_mixtures_of_the_reference(
    groups: int, tokens: int, width: int, experts: int, slots: int, dispatch_bf16: int, name: str
) -> None:
    rng = np.random.default_rng(width)
    dispatch, combine = rng.random((2, groups, tokens, experts, slots), np.float32) / tokens
    check(name, "VmoeSoftDispatch", normal(rng, groups, tokens, width), dispatch, dispatch_bf16=dispatch_bf16)
    out = normal(rng, experts, groups * slots, width)
    check(name, "VmoeSoftCombine", out, combine, dispatch_bf16=dispatch_bf16)


@EVERY_RUNNER
def test_a_slot_lies_behind_those_of_the_groups_before(name: str) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3, 1)
    dispatch = np.zeros((2, 3, 2, 2), np.float32)
    dispatch[0, 1, 0, 1] = dispatch[1, 2, 1, 0] = 1
    (buf,) = runner(name, "VmoeSoftDispatch")(x, dispatch)
    np.testing.assert_array_equal(buf[..., 0], [[0, 1, 0, 0], [0, 0, 5, 0]])
    (y,) = runner(name, "VmoeSoftCombine")(buf, dispatch)
    np.testing.assert_array_equal(y[..., 0], [[0, 1, 0], [0, 0, 5]])


def check(name: str, op: str, *inputs: np.ndarray, **attributes: int) -> list[np.ndarray]:
    found = runner(name, op, **attributes)(*inputs)
    for output, exact in zip(found, run_exact(OPS[op], *inputs, **attributes), strict=True):
        np.testing.assert_allclose(output, exact, rtol=0, atol=1e-5)
    return found
