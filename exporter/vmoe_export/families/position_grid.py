"""Resize a position embedding in the same way as PyTorch's interpolation, which the other libraries use."""

from __future__ import annotations

import numpy as np

from vmoe_export.checkpoint import Array


def resized_grid(grid: Array, size: tuple[int, int], *, antialias: bool, linear: bool = False) -> Array:
    """Resize a grid of positions, with half-pixel centres. A grid of the right size is returned unchanged.

    Args:
        grid: float64[rows, columns, D].
        size: (rows, columns) of the result.
        antialias: whether to interpolate like `torch.nn.functional.interpolate(mode="bicubic", antialias=True)`. This uses
            Keys' cubic kernel with a = -0.5. If the grid shrinks, the kernel is spread over more rows and columns. Without
            `antialias`, a is -0.75, and only the four nearest rows and columns are used.
        linear: whether to use linear instead of cubic interpolation, like `mode="bilinear"`.
    """
    if grid.shape[:2] == size:
        return grid
    sides = zip(grid.shape[:2], size, strict=True)
    rows, columns = (_weights(source, target, antialias, linear) for source, target in sides)
    resized: Array = np.einsum("ab,bcd,ec->aed", rows, grid, columns)
    return resized


def _weights(source: int, target: int, antialias: bool, linear: bool) -> Array:
    """Return the weight of each source row in each target row, as float64[target, source]."""
    step = source / target
    spread = max(step, 1.0) if antialias else 1.0
    weights = np.zeros((target, source))
    for row in range(target):
        center = (row + 0.5) * step - 0.5
        first, last = int(np.floor(center - 2 * spread)), int(np.ceil(center + 2 * spread))
        for position in range(first, last + 1):
            x = abs(position - center) / spread
            share = max(0.0, 1 - x) if linear else _cubic(x, -0.5 if antialias else -0.75)
            # Without antialiasing, the weight of a position beyond the edge is added to the edge row. With antialiasing, a
            # position beyond the edge is ignored.
            inside = min(max(position, 0), source - 1)
            if not antialias or inside == position:
                weights[row, inside] += share
    shares: Array = weights / weights.sum(axis=1, keepdims=True)
    return shares


def _cubic(x: float, a: float) -> float:
    """Evaluate Keys' cubic convolution kernel at distance x."""
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0
