"""Compare VmoeMerge, in every implementation, with a reference that merges tokens one by one.

Also test attention with merged tokens.
"""

from __future__ import annotations

import numpy as np
import pytest
from op_models import MERGING, RUNNERS, run_reference, runner

from vmoe_export.ops.table import OPS

pytestmark = pytest.mark.fast

MERGE = OPS["VmoeMerge"]
SIZES = [(7, 2, 1), (50, 8, 1), (50, 100, 1), (49, 0, 0), (2, 5, 1), (1, 3, 0), (6, 9, 0), (9, 3, 3), (21, 50, 2), (4, 2, 0)]
"""Tokens, `merge` and prefix, including more merges than possible, and fewer."""


def inputs_of(tokens: int, merge: int, *, seed: int = 0, tied: bool = False) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((3, tokens, 8), np.float32)
    keys = rng.integers(-1, 2, x.shape).astype(np.float32) if tied else rng.standard_normal(x.shape, np.float32)
    sizes = rng.integers(1, 5, x.shape[:2]).astype(np.float32)
    token = rng.integers(0, tokens, (3, 60), dtype=np.int32)
    return [x, keys, sizes, token, np.array([merge], np.int64)]


@pytest.mark.parametrize("tied", [False, True], ids=["random", "tied"])
@pytest.mark.parametrize(("tokens", "merge", "prefix"), SIZES)
@pytest.mark.parametrize("name", RUNNERS)
def test_tokens_are_merged_as_one_by_one(name: str, tokens: int, merge: int, prefix: int, tied: bool) -> None:
    inputs = inputs_of(tokens, merge, tied=tied)
    expected = run_reference(MERGE, *inputs, num_heads=2, prefix=prefix)
    found = runner(name, MERGE.name, num_heads=2, prefix=prefix)(*inputs)
    np.testing.assert_array_equal(found[2], expected[2])
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", RUNNERS)
def test_an_image_is_merged_alike_beside_any_others(name: str) -> None:
    inputs = inputs_of(50, 8)
    run = runner(name, MERGE.name, num_heads=2, prefix=1)
    alone = [run(*(array[i : i + 1] for array in inputs[:4]), inputs[4]) for i in range(3)]
    for together, apart in zip(run(*inputs), zip(*alone, strict=True), strict=True):
        np.testing.assert_array_equal(together, np.concatenate(apart))


@pytest.mark.parametrize("name", RUNNERS)
@pytest.mark.parametrize("bf16", [0, 1])
def test_a_key_counts_as_often_as_tokens_are_in_it(name: str, bf16: int) -> None:
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal((2, tokens, 8), np.float32) for tokens in (5, 7, 7))
    sizes = rng.integers(1, 4, (2, 7)).astype(np.float32)
    found = runner(name, "VmoeAttention", num_heads=2, bf16=bf16, given=MERGING)(q, k, v, sizes)
    copies = [np.stack([np.repeat(of[i], sizes[i].astype(int), axis=0) for i in (1,)]) for of in (k, v)]
    (expected,) = run_reference(OPS["VmoeAttention"], q[1:], *copies, None, num_heads=2, bf16=bf16)
    np.testing.assert_allclose(found[0][1:], expected, rtol=0, atol=2e-2 if bf16 else 2e-6)
