"""Turns what callers have - arrays, PIL images, files - into the batch that a graph takes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from vmoe_runtime.errors import ImageError
from vmoe_runtime.manifest import InputSpec

if TYPE_CHECKING:
    from PIL.Image import Image

Array = np.ndarray[Any, np.dtype[Any]]
OneImage: TypeAlias = "Array | Image | str | os.PathLike[str]"
Images: TypeAlias = "OneImage | Sequence[OneImage]"


def to_batch(images: Images, spec: InputSpec) -> Array:
    """A batch for the graph.

    Args:
        images: an array [N,H,W,C], [H,W,C], or [N,H,W] for one channel, of the model's size; or a PIL image or file path,
            resized to it; or a sequence of these. Arrays are float32 in [-1, 1], or uint8 in 0..255.
        spec: what the graph takes.

    Returns:
        spec.dtype[N,H,W,C], contiguous.

    Raises:
        ImageError: naming what was given and what is needed.
    """
    if isinstance(images, np.ndarray):
        return _from_array(images, spec)
    if isinstance(images, str | os.PathLike) or _is_pil(images):
        return _from_picture(images, spec)[None]
    if isinstance(images, Sequence):
        if not images:
            raise ImageError("there are no images: the sequence is empty")
        return np.concatenate([to_batch(image, spec) for image in images])
    raise ImageError(f"images must be arrays, PIL images or file paths, not {type(images).__name__}")


def scale_pixels(pixels: Array) -> Array:
    """uint8 or float pixels 0..255 to float32 [-1, 1]: the official `value_range(-1, 1)`."""
    scaled: Array = pixels.astype(np.float32) / np.float32(255) * np.float32(2) - np.float32(1)
    return scaled


def resize_bilinear(pixels: Array, height: int, width: int) -> Array:
    """Bilinear with half-pixel centres and without antialiasing, as `tf.image.resize` does.

    Args:
        pixels: number[H,W,C].
        height, width: of the result, in pixels.

    Returns:
        float32[height, width, C].
    """
    result = pixels.astype(np.float32)
    for axis, size in ((0, height), (1, width)):
        if result.shape[axis] != size:
            source = result.shape[axis]
            position = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(source / size) - np.float32(0.5)
            low = np.floor(position)
            share = (position - low).reshape(-1, *[1] * (2 - axis))
            first = result.take(np.maximum(low, 0).astype(int), axis)
            second = result.take(np.minimum(np.ceil(position), source - 1).astype(int), axis)
            result = first + (second - first) * share
    return result


def _from_array(array: Array, spec: InputSpec) -> Array:
    size = (spec.height, spec.width, spec.channels)
    if array.ndim == 3 and array.shape == size:
        array = array[None]
    elif array.ndim == 3 and spec.channels == 1 and array.shape[1:] == size[:2]:
        array = array[..., None]
    if array.ndim != 4 or array.shape[1:] != size:
        raise ImageError(f"images have shape {array.shape}, and the model takes (N, {', '.join(map(str, size))})")
    if not len(array):
        raise ImageError("there are no images: the batch is empty")
    if array.dtype == spec.dtype:
        return np.ascontiguousarray(array)
    if array.dtype == np.uint8:
        return scale_pixels(array)
    takes = "uint8" if spec.dtype == "uint8" else "float32 in [-1, 1], or uint8"
    raise ImageError(f"images are {array.dtype}, and the model takes {takes}")


def _is_pil(value: object) -> bool:
    return type(value).__module__.startswith("PIL.") and hasattr(value, "convert")


def _from_picture(picture: Any, spec: InputSpec) -> Array:
    try:
        from PIL import Image
    except ImportError:
        raise ImageError("PIL images and files need pillow: pip install 'vmoe-export[images]'") from None
    mode = {1: "L", 3: "RGB"}.get(spec.channels)
    if mode is None:
        raise ImageError(f"the model takes {spec.channels} channels, so images must be arrays")
    named = isinstance(picture, str | os.PathLike)
    name = os.fspath(picture) if named else "the image"
    try:
        opened = Image.open(picture) if named else picture
        stored_mode = opened.mode
        pixels = np.asarray(opened.convert(mode))
        if named:
            opened.close()
    except Exception as error:  # a damaged file makes a decoder fail in any way
        raise ImageError(f"{name} is not a readable image ({error})") from None
    if stored_mode.startswith(("I", "F")):
        # Pillow would cut such pixels off at 255 instead of scaling them.
        raise ImageError(f"{name} has more than 8 bits per channel (mode {stored_mode}); convert it to 8 bits")
    resized = resize_bilinear(pixels.reshape(*pixels.shape[:2], spec.channels), spec.height, spec.width)
    return np.rint(resized).astype(np.uint8) if spec.dtype == "uint8" else scale_pixels(resized)
