"""Tests for rotary position embeddings in every implementation."""

from __future__ import annotations

import numpy as np
import pytest
from op_models import RUNNERS, normal, run_exact, runner

from vmoe_export.ops.table import OPS

pytestmark = pytest.mark.fast

SHAPES = [(1, 1, 64), (2, 7, 48), (3, 4, 32), (2, 33, 88)]
"""Images, heads and columns of a head: whole lines, and heads that begin within a line."""


@pytest.mark.parametrize(("images", "heads", "size"), SHAPES)
@pytest.mark.parametrize("name", RUNNERS)
def test_pairs_of_columns_turn_by_the_angle_of_their_token(name: str, images: int, heads: int, size: int) -> None:
    rng = np.random.default_rng(0)
    x, coordinates, frequencies = (normal(rng, *of) for of in ((images, 9, heads * size), (images, 9, 2), (2, size // 2)))
    coordinates = 3 * coordinates
    coordinates[:, 0] = 0
    (found,) = runner(name, "VmoeRotate", num_heads=heads)(x, coordinates, frequencies)
    (expected,) = run_exact(OPS["VmoeRotate"], x, coordinates, frequencies, num_heads=heads)
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6)
    np.testing.assert_array_equal(found[:, 0], x[:, 0])
