"""Resizes pictures with Pillow, or with exactly the same result as the official code.

To match the official code bit for bit, this module does the float32 operations of TensorFlow's kernels one by one. They run
in the kernels' order: along rows first, then down columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vmoe_runtime.preprocessing import Geometry, Window, pillow_passes

if TYPE_CHECKING:
    from PIL.Image import Image

Array = np.ndarray[Any, np.dtype[Any]]

_CACHED = 1 << 19  # bytes in one piece of a picture, chosen so that the piece's sums stay in a core's cache
_BAND = 256  # number of rows that are copied from Pillow at once

MODES = {1: "L", 3: "RGB"}
"""Pillow's modes for grey and RGB, by the model's number of channels."""

GREY_WEIGHTS = (19595, 38470, 7471)
"""Weights of red, green and blue in units of 1 / 65536 (ITU-R 601-2). Pillow's grey is their weighted sum, rounded."""


def read_pixels(image: Image, window: Window, channels: int) -> Array:
    """Return a rectangle of a decoded PIL image as uint8[height, width, channels].

    One channel is grey, three channels are RGB.
    """
    pixels = np.empty((window.height, window.width, channels), np.uint8)
    for top in range(0, window.height, _BAND):  # copying all rows at once would use several times as much memory
        band = pixels[top : top + _BAND]
        part = Window(window.top + top, window.left, len(band), window.width)
        band[...] = np.asarray(_converted(image, part, channels)).reshape(band.shape)
    return pixels


def _converted(image: Image, window: Window, channels: int) -> Image:
    from PIL.Image import fromarray

    part = image
    if window != Window(0, 0, image.height, image.width) or "transparency" in image.info:  # a copy
        part = image.crop((window.left, window.top, window.left + window.width, window.top + window.height))
    if part.mode.startswith("I"):  # a mode for 16-bit pixels, which Pillow would clip at 255 instead of scaling them
        part = fromarray((np.asarray(part) >> 8).astype(np.uint8))
    # Remove the transparency, which is not needed here. Otherwise, Pillow would warn that it can't keep the transparency.
    part.info.pop("transparency", None)
    return part if part.mode == MODES[channels] else part.convert(MODES[channels])


def resampled(image: Image, channels: int, geometry: Geometry) -> Array:
    """Resize a picture and return the geometry's target part as float32[height, width, channels], without rounding."""
    source, target = geometry.source, geometry.target
    if geometry.method == "area":
        return _by_area(image, channels, geometry)
    if geometry.method == "bilinear":
        return resize_bilinear(read_pixels(image, source, channels), geometry.height, geometry.width, target)
    if geometry.method:
        from PIL.Image import Resampling

        how = Resampling.BICUBIC if geometry.method == "pillow_bicubic" else Resampling.BILINEAR
        image = _converted(image, source, channels)
        for height, width in pillow_passes(source, geometry.height, geometry.width):
            image = image.resize((width, height), how)
    return read_pixels(image, target, channels).astype(np.float32)


def resize_bilinear(pixels: Array, height: int, width: int, target: Window | None = None) -> Array:
    """Resize bilinearly, with half-pixel centres and without antialiasing, as `tf.image.resize` does.

    Args:
        pixels: number[H,W,C].
        height, width: size of the whole resized picture, in pixels.
        target: the part of the resized picture to return; default: all of it.

    Returns:
        float32[height, width, C] of the target or, by default, of the whole resized picture.
    """
    target = target or Window(0, 0, height, width)
    up, down, share_y = _neighbours(height, pixels.shape[0], target.top, target.height)
    left, right, share_x = _neighbours(width, pixels.shape[1], target.left, target.width)

    def across(rows: Array) -> Array:
        first, second = (pixels[rows[:, None], columns].astype(np.float32) for columns in (left, right))
        return _mixed(first, second, share_x[:, None])

    return _mixed(across(up), across(down), share_y[:, None, None])


def _mixed(first: Array, second: Array, share: Array) -> Array:
    """Return the weighted mean of `first` and `second`. `share` is the weight of `second`."""
    mixed: Array = first + (second - first) * share
    return mixed


def _neighbours(size: int, source: int, start: int, count: int) -> tuple[Array, Array, Array]:
    """Return the two source pixels on either side of each position in the resized picture, along one axis.

    The axis has `source` pixels before resizing and `size` positions after it. The result is for `count` positions from
    `start` on: the int64 indices of the lower pixels, the int64 indices of the higher pixels, and the float32 weights of the
    higher pixels.
    """
    scale = np.float32(source) / np.float32(size)
    position = (np.arange(start, start + count).astype(np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    floor = np.floor(position)
    low = np.clip(floor.astype(np.int64), 0, source - 1)
    high = np.clip(np.ceil(position).astype(np.int64), 0, source - 1)
    return low, high, position - floor


def _by_area(image: Image, channels: int, geometry: Geometry) -> Array:
    source, target = geometry.source, geometry.target
    scale_y, up, weight_y = _overlaps(geometry.height, source.height, target.top, target.height)
    scale_x, left, weight_x = _overlaps(geometry.width, source.width, target.left, target.width)
    top, start = int(up.min()), int(left.min())
    touched = Window(source.top + top, source.left + start, int(up.max()) - top + 1, int(left.max()) - start + 1)
    pixels = read_pixels(image, touched, channels)
    pieces = np.array_split(pixels, min(len(pixels), pixels.size // _CACHED + 1))
    narrow = np.concatenate([_sum_of_cells(piece, 1, left - start, weight_x[:, :, None]) for piece in pieces])
    result = _sum_of_cells(narrow, 0, up - top, weight_y[:, :, None, None])
    result *= np.float32(1) / (scale_y * scale_x)
    return result


def _sum_of_cells(values: Array, axis: int, index: Array, weight: Array) -> Array:
    """Return the sum of values.take(index[:, t], axis) * weight[:, t] over all t, added in the order of t."""
    shape = list(values.shape)
    shape[axis] = len(index)
    result = np.zeros(shape, np.float32)
    for t in range(index.shape[1]):
        result += values.take(index[:, t], axis).astype(np.float32) * weight[:, t]
    return result


def _overlaps(size: int, source: int, start: int, count: int) -> tuple[np.float32, Array, Array]:
    """Return the source pixels that each cell overlaps along one axis.

    The axis has `source` pixels, divided into `size` cells of equal length. The result is for `count` cells from `start` on:

    - the number of pixels per cell
    - int64[count, T], the indices of the pixels
    - float32[count, T], the overlap with each pixel; if a cell overlaps fewer than T pixels, its row ends with zeros
    """
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
