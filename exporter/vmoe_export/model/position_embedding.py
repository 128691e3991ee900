"""Position embeddings that are computed at export: resized learned embeddings, and sincos2d."""

from __future__ import annotations

import math

import numpy as np

from vmoe_export.checkpoint import Array
from vmoe_export.errors import OptionError
from vmoe_export.model.model_config import pixels


def resize_notes(source: tuple[int, int], grid: tuple[int, int]) -> list[str]:
    """Return a note if the position embedding is stored for another grid of patches than the images have."""
    note = f"the position embedding is resized from {pixels(source)} to {pixels(grid)} patches"
    return [] if source == grid else [note]


def resize_position_embedding(embedding: Array, grid: tuple[int, int], has_token: bool) -> Array:
    """Resize a learned position embedding to another grid of patches, following the official 'vit_zoom' rule.

    The resize is bilinear, with aligned corners and without antialiasing. It is computed in double precision, like
    scipy.ndimage.zoom(order=1). If the result has a row for the class token, that row is copied from `embedding`. If only
    `embedding` has such a row, the row is dropped.

    Args:
        embedding: float32[1, T, D] for a square grid of patches, with or without a leading token row.
        grid: (rows, columns) of the new grid, which must be square.
        has_token: whether the result has a leading token row.

    Returns:
        float32[1, rows * columns (+ 1), D].

    Raises:
        OptionError: a grid is not square, or `embedding` has no token row, but the result needs one.
    """
    _, tokens, width = embedding.shape
    side = math.isqrt(tokens)
    source_has_token = side * side != tokens
    if source_has_token:
        side = math.isqrt(tokens - 1)
    if side * side != tokens - source_has_token or grid[0] != grid[1]:
        raise OptionError(
            f"a position embedding of {tokens} tokens can't be resized to {grid[0]}x{grid[1]} patches: only square grids can"
        )
    if has_token and not source_has_token:
        raise OptionError("the position embedding has no row for the class token")
    patches = embedding[:, source_has_token:].reshape(side, side, width)
    patches = _zoom(_zoom(patches, 0, grid[0]), 1, grid[1]) if grid[0] != side else patches
    resized = patches.astype(np.float32).reshape(1, -1, width)
    return np.concatenate([embedding[:, :1], resized], axis=1) if has_token else resized


def _zoom(values: Array, axis: int, size: int) -> Array:
    """Interpolate linearly along one axis with aligned corners, in float64."""
    source = values.shape[axis]
    step = (source - 1) / (size - 1) if size > 1 else 0.0
    position = np.arange(size) * step
    low = np.clip(np.floor(position).astype(int), 0, source - 1)
    high = np.minimum(low + 1, source - 1)
    share = np.expand_dims((position - low), tuple(range(1, values.ndim - axis)))
    wide = values.astype(np.float64)
    result: Array = wide.take(low, axis) * (1 - share) + wide.take(high, axis) * share
    return result


def sincos2d_position_embedding(grid: tuple[int, int], hidden_size: int, temperature: float, has_token: bool) -> Array:
    """Compute the fixed 2-D sine-cosine embedding of the official encoder (MoCo v3, arXiv 2104.02057).

    The feature blocks are sin(x w), cos(x w), sin(y w), cos(y w), with x the column, y the row and w the frequencies. A
    class token gets zeros.

    Returns:
        float32[1, rows * columns (+ 1), hidden_size].
    """
    frequencies = hidden_size // 4
    exponent = np.arange(frequencies, dtype=np.float32) / np.float32(frequencies - 1)
    omega = np.float32(1) / np.float32(temperature) ** exponent
    rows, columns = np.mgrid[: grid[0], : grid[1]].astype(np.float32)
    x, y = columns.reshape(-1, 1) * omega, rows.reshape(-1, 1) * omega
    embedding = np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)
    if has_token:
        embedding = np.concatenate([np.zeros((1, hidden_size), np.float32), embedding])
    return embedding.astype(np.float32)[None]
