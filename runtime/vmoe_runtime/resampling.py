"""Resizes pictures as the official code does, bit for bit, and never holds more of one than a small piece.

Every operation is one float32 operation of TensorFlow's kernels, in their order: along rows first, then down columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from vmoe_runtime.preprocessing import Geometry, Window

if TYPE_CHECKING:
    from PIL.Image import Image

Array = np.ndarray[Any, np.dtype[Any]]

PIECE = 1 << 20
"""About as many pixels of a picture are read at a time."""

MODES = {1: "L", 3: "RGB"}
"""Pillow's names of grey and colours, by the channels of a model."""


class PicturePixels:
    """The pixels of a decoded PIL image: uint8, grey for one channel and RGB for three.

    They are converted piece by piece: a converted copy would be as large as the picture.
    """

    def __init__(self, image: Image, channels: int) -> None:
        self._image = image
        self.channels = channels

    def read(self, window: Window) -> Array:
        """uint8[height, width, C] of a rectangle."""
        box = (window.left, window.top, window.left + window.width, window.top + window.height)
        piece = self._image.crop(box)
        # Pillow warns of a transparency that it can't keep, and the picture is taken without.
        piece.info.pop("transparency", None)
        return np.asarray(piece.convert(MODES[self.channels])).reshape(window.height, window.width, self.channels)

    def pick(self, rows: Array, columns: Array) -> Array:
        """uint8[R, K, C]: where R rows and K columns cross; both are sorted i64 without repeated rows."""
        picked = np.empty((len(rows), len(columns), self.channels), np.uint8)
        start, stop = int(columns[0]), int(columns[-1]) + 1
        most = max(1, PIECE // (stop - start))
        for first, last in _runs(rows, most):
            for left in range(start, stop, PIECE):
                right = min(left + PIECE, stop)
                some = slice(*np.searchsorted(columns, [left, right]))
                if some.start < some.stop:
                    piece = self.read(Window(int(rows[first]), left, last - first, right - left))
                    picked[first:last, some] = piece[:, columns[some] - left]
        return picked


def resampled(pixels: PicturePixels, geometry: Geometry) -> Iterator[tuple[int, Array]]:
    """The target of a geometry in blocks of rows from the top: (first row, float32[rows, width, C]), not rounded."""
    target = geometry.target
    if geometry.method == "area":
        yield from _by_area(pixels, geometry)
    elif geometry.method == "bilinear":
        yield from _bilinear(pixels, geometry)
    else:
        step = max(1, PIECE // target.width)
        for top in range(0, target.height, step):
            rows = min(step, target.height - top)
            window = Window(target.top + top, target.left, rows, target.width)
            yield top, pixels.read(window).astype(np.float32)


def resize_bilinear(pixels: Array, height: int, width: int) -> Array:
    """Bilinear with half-pixel centres and without antialiasing, as `tf.image.resize` does.

    Args:
        pixels: number[H,W,C].
        height, width: of the result, in pixels.

    Returns:
        float32[height, width, C].
    """
    up, down, share_y = _neighbours(height, pixels.shape[0], 0, height)
    left, right, share_x = _neighbours(width, pixels.shape[1], 0, width)
    values = pixels.astype(np.float32)
    across = _mixed(values[:, left], values[:, right], share_x[:, None])
    return _mixed(across[up], across[down], share_y[:, None, None])


def _mixed(first: Array, second: Array, share: Array) -> Array:
    """Between two neighbours, with the share of the second."""
    mixed: Array = first + (second - first) * share
    return mixed


def _bilinear(pixels: PicturePixels, geometry: Geometry) -> Iterator[tuple[int, Array]]:
    source, target = geometry.source, geometry.target
    up, down, share_y = _neighbours(geometry.height, source.height, target.top, target.height)
    left, right, share_x = _neighbours(geometry.width, source.width, target.left, target.width)
    columns = np.concatenate([left, right])
    order = np.argsort(columns, kind="stable")
    position = np.argsort(order, kind="stable")
    step = max(1, PIECE // (16 * target.width))
    for top in range(0, target.height, step):
        block = slice(top, min(top + step, target.height))
        rows = np.unique(np.concatenate([up[block], down[block]]))
        near = pixels.pick(source.top + rows, source.left + columns[order]).astype(np.float32)
        across = _mixed(near[:, position[: target.width]], near[:, position[target.width :]], share_x[:, None])
        above, below = across[np.searchsorted(rows, up[block])], across[np.searchsorted(rows, down[block])]
        yield top, _mixed(above, below, share_y[block, None, None])


def _neighbours(size: int, source: int, start: int, count: int) -> tuple[Array, Array, Array]:
    """For the positions `start` on, of `size` along one axis: i64 index of the pixels on both sides, float32 share of
    the second."""
    scale = np.float32(source) / np.float32(size)
    position = (np.arange(start, start + count).astype(np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    floor = np.floor(position)
    low = np.clip(floor.astype(np.int64), 0, source - 1)
    high = np.clip(np.ceil(position).astype(np.int64), 0, source - 1)
    return low, high, position - floor


def _by_area(pixels: PicturePixels, geometry: Geometry) -> Iterator[tuple[int, Array]]:
    source, target = geometry.source, geometry.target
    scale_y, up, weight_y = _overlaps(geometry.height, source.height, target.top, target.height)
    scale_x, left, weight_x = _overlaps(geometry.width, source.width, target.left, target.width)
    whole = np.float32(1) / (scale_y * scale_x)
    first_column, last_column = int(left[:, 0].min()), int(left.max())
    columns = last_column - first_column + 1
    piece = max(1, PIECE // columns)
    # Rows of the target whose rows of the picture, once narrowed, are about one piece.
    step = max(1, int(PIECE / (4 * target.width * max(1.0, float(scale_y)))))
    for top in range(0, target.height, step):
        block = slice(top, min(top + step, target.height))
        first_row, last_row = int(up[block].min()), int(up[block].max())
        narrow = np.empty((last_row - first_row + 1, target.width, pixels.channels), np.float32)
        for row in range(0, len(narrow), piece):
            rows = min(piece, len(narrow) - row)
            window = Window(source.top + first_row + row, source.left + first_column, rows, columns)
            _add_up(pixels.read(window), 1, left - first_column, weight_x[:, :, None], narrow[row : row + rows])
        result = np.empty((block.stop - block.start, *narrow.shape[1:]), np.float32)
        _add_up(narrow, 0, up[block] - first_row, weight_y[block, :, None, None], result)
        result *= whole
        yield top, result


def _add_up(values: Array, axis: int, index: Array, weight: Array, result: Array) -> None:
    """result = the sum over t of values.take(index[:, t], axis) * weight[:, t], one t after the other."""
    result[...] = 0
    for t in range(index.shape[1]):
        result += values.take(index[:, t], axis).astype(np.float32) * weight[:, t]


def _overlaps(size: int, source: int, start: int, count: int) -> tuple[np.float32, Array, Array]:
    """For the cells `start` on, of `size` along one axis: pixels per cell, i64[count, T] index of the pixels that a cell
    touches, and float32[count, T] how much of each. Cells that touch fewer than T end in pixels of weight 0."""
    scale = np.float32(source) / np.float32(size)
    cells = np.arange(start, start + count)
    low, high = (cells.astype(np.float32) * scale)[:, None], ((cells + 1).astype(np.float32) * scale)[:, None]
    first = np.floor(low).astype(np.int64)
    end = np.maximum(np.ceil(high).astype(np.int64), first + 1)
    index = first + np.arange(int((end - first).max()))
    begin, after = index.astype(np.float32), (index + 1).astype(np.float32)
    inside_right = np.where(after > high, high - begin, np.float32(1))
    weight = np.where(begin < low, np.where(after > high, scale, after - low), inside_right)
    return scale, np.minimum(index, source - 1), np.where(index < end, weight, np.float32(0))


def _runs(rows: Array, most: int) -> Iterator[tuple[int, int]]:
    """First and last (exclusive) index of neighbouring rows, `most` of them at the most."""
    first = 0
    for last in range(1, len(rows) + 1):
        if last == len(rows) or rows[last] != rows[last - 1] + 1 or last - first == most:
            yield first, last
            first = last
