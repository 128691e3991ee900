"""Tests for position embeddings that the exporter computes: sincos2d, and the official resize, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vmoe_export.errors import OptionError
from vmoe_export.model.position_embedding import resize_position_embedding, sincos2d_position_embedding

pytestmark = pytest.mark.fast

ZOOM = Path(__file__).parents[1] / "data" / "golden" / "zoom.npz"
PAIRS = [(10, 17), (17, 26), (50, 145), (16, 25), (26, 17)]


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_resize_gives_the_official_bits(source: int, target: int) -> None:
    with np.load(ZOOM) as stored:
        embedding, official = stored[f"src_{source}_{target}"], stored[f"out_{source}_{target}"]
    side = int(target**0.5)
    found = resize_position_embedding(embedding, (side, side), has_token=side * side != target)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.view(np.uint32), official.view(np.uint32))


def test_the_same_grid_is_left_as_it_is() -> None:
    embedding = _random(17)
    np.testing.assert_array_equal(resize_position_embedding(embedding, (4, 4), has_token=True), embedding)


def test_a_token_row_that_only_the_source_has_is_dropped() -> None:
    embedding = _random(17)
    np.testing.assert_array_equal(resize_position_embedding(embedding, (4, 4), has_token=False), embedding[:, 1:])


def test_a_single_patch_fills_any_grid() -> None:
    embedding = _random(1)
    resized = resize_position_embedding(embedding, (3, 3), has_token=False)
    np.testing.assert_array_equal(resized, np.broadcast_to(embedding, (1, 9, embedding.shape[2])))


@pytest.mark.parametrize(
    ("tokens", "grid", "has_token", "message"),
    [
        (16, (3, 4), False, "can't be resized to 3x4 patches"),
        (15, (4, 4), False, "position embedding of 15 tokens can't be resized"),
        (18, (4, 4), True, "position embedding of 18 tokens can't be resized"),
        (16, (5, 5), True, "no row for the class token"),
    ],
)
def test_what_the_official_rule_refuses_is_refused(
    tokens: int, grid: tuple[int, int], has_token: bool, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        resize_position_embedding(_random(tokens), grid, has_token)


@pytest.mark.parametrize("grid", [(1, 1), (3, 3), (2, 5)])
@pytest.mark.parametrize("temperature", [10_000.0, 100.0])
def test_sincos2d_is_the_formula_with_the_column_before_the_row(grid: tuple[int, int], temperature: float) -> None:
    found = sincos2d_position_embedding(grid, 16, temperature, has_token=False)
    assert (found.shape, found.dtype) == ((1, grid[0] * grid[1], 16), np.float32)
    for row in range(grid[0]):
        for column in range(grid[1]):
            omega = [temperature ** (-i / 3) for i in range(4)]
            expected = [f(place * w) for place in (column, row) for f in (np.sin, np.cos) for w in omega]
            np.testing.assert_allclose(found[0, row * grid[1] + column], expected, rtol=0, atol=1e-6)


def test_sincos2d_adds_nothing_to_a_class_token() -> None:
    with_token = sincos2d_position_embedding((2, 3), 8, 10_000.0, has_token=True)
    np.testing.assert_array_equal(with_token[:, 0], np.zeros((1, 8)))
    np.testing.assert_array_equal(with_token[:, 1:], sincos2d_position_embedding((2, 3), 8, 10_000.0, False))


def _random(tokens: int) -> np.ndarray:
    return np.random.default_rng(tokens).standard_normal((1, tokens, 6), np.float32)
