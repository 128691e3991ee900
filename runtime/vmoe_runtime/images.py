"""Turns images from callers into the batch that a graph takes as input.

Callers may pass arrays, tensors, PIL images, files or bytes.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeAlias

import numpy as np

from vmoe_runtime.bundle.manifest import InputSpec
from vmoe_runtime.errors import ImageError
from vmoe_runtime.forkable_lock import forkable_lock
from vmoe_runtime.pictures import arranged, opened, orientation_of
from vmoe_runtime.resampling import Array, resampled

if TYPE_CHECKING:
    from PIL.Image import Image
else:
    Image = Any  # a placeholder, so that type hints can be evaluated without Pillow


class Tensor(Protocol):
    """An object that numpy can convert to an array, such as a torch CPU tensor."""

    def __array__(self) -> Any: ...


OneImage: TypeAlias = Array | Tensor | Image | str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
Images: TypeAlias = OneImage | Sequence[OneImage]

TAKEN = "arrays, torch tensors, PIL images, file paths, the bytes of files, file objects, or a list of these"

_UINT8 = np.dtype(np.uint8)
_MOST_NESTED = 4
_LARGEST_FLOAT = 2  # limit for absolute values; it is above 1, because a model may have been trained with another scaling


_counting = forkable_lock()
_taken = Counter[str]()


class ImageWarning(UserWarning):
    """A warning about images that a model accepts, although they are probably a mistake."""


def to_batch(images: Images, spec: InputSpec, warned: set[str] | None = None) -> Array:
    """Return a batch for the graph.

    Args:
        images: one of these, or a sequence of them:
            - An array or torch CPU tensor [N,H,W,C] or [H,W,C]. If the model has one channel, [N,H,W] or [H,W] is also
            accepted. The array has the model's size, and is float32 in [-1, 1] or uint8 in 0..255.
            - A picture of any size: a PIL image, a path, the bytes of a file, or an open file. `spec.steps` resize it to the
            model's size.
        spec: the graph's input.
        warned: the kinds of warnings about float images that were already given. Warnings of these kinds are not repeated,
            and the kinds of new warnings are added to the set. If `warned` is None, every call warns about its float images.

    Returns:
        A contiguous array [N,H,W,C] of type `spec.dtype`.

    Raises:
        ImageError: the model can't take the images; the message says what the model needs.

    Warns:
        ImageWarning: float images are all within [0, 1] or contain NaN, or a picture has an EXIF orientation that the steps
            ignore. The warning about EXIF orientations is given once per process.
    """
    if isinstance(images, np.ndarray) and _is_usual(images, spec):
        return images
    floats: list[Array] = []
    parts = _parts(images, spec, floats, 0)
    if floats:
        _check_values(floats, set() if warned is None else warned)
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def unturned_pictures() -> int:
    """Return the number of pictures so far whose EXIF orientation this process has ignored."""
    return _taken["unturned"]


def scale_pixels(pixels: Array) -> Array:
    """Scale uint8 or float pixels from 0..255 to float32 in [-1, 1].

    The official `value_range(-1, 1)` scales pixels in the same way.
    """
    scaled: Array = pixels.astype(np.float32) / np.float32(255) * np.float32(2) - np.float32(1)
    return scaled


def _is_usual(array: Array, spec: InputSpec) -> bool:
    """Return whether the graph can take `array` unchanged and its values need no warning.

    If this is true, the caller can skip the other checks. In a small model, those checks take much of the call time.
    """
    if array.dtype != spec.numpy_dtype or array.shape[1:] != spec.size or not array.flags.c_contiguous:
        return False
    if not len(array) or spec.dtype == "uint8":
        return len(array) > 0
    # argmin and argmax are faster than min and max here.
    return bool(-_LARGEST_FLOAT <= array.item(array.argmin()) < 0 and array.item(array.argmax()) <= _LARGEST_FLOAT)


def _parts(images: Any, spec: InputSpec, floats: list[Array], depth: int) -> list[Array]:
    """Return one or more batches [N,H,W,C], of type `spec.dtype`, that contain the given images.

    `images` is an image, an array, or a list of images and arrays. Batches made from float arrays are also appended to
    `floats`.
    """
    # A path may be an item of a numpy array of strings. Such an item also has `__array__`, so exclude strings here.
    if not isinstance(images, np.ndarray | str | bytes) and hasattr(images, "__array__") and not _is_pil(images):
        images = _as_array(images)
    if isinstance(images, np.ndarray):
        array = _from_array(images, spec)
        if images.dtype != _UINT8:
            floats.append(array)
        return [array]
    if isinstance(images, str | os.PathLike | bytes | bytearray | memoryview) or _is_pil(images) or hasattr(images, "read"):
        return [_from_picture(images, spec)[None]]
    if not isinstance(images, Sequence):
        raise ImageError(f"images must be {TAKEN}, not {type(images).__name__}")
    if not len(images):
        raise ImageError("there are no images: the sequence is empty")
    if depth == _MOST_NESTED:
        raise ImageError(f"the list of images holds lists in lists, more than {_MOST_NESTED} deep, or itself")
    return [part for image in images for part in _parts(image, spec, floats, depth + 1)]


def _as_array(tensor: Any) -> Array:
    """Convert a torch tensor or another library's array to a numpy array, without importing torch."""
    try:
        return np.asarray(tensor)
    except Exception as error:  # whatever another library raises
        kind = f"{type(tensor).__module__.partition('.')[0]}.{type(tensor).__name__}"
        raise ImageError(f"images are a {kind} that doesn't become an array ({error})") from None


def _from_array(array: Array, spec: InputSpec) -> Array:
    size = spec.size
    given = array.shape
    if given == size or (spec.channels == 1 and given == size[:2]):
        array = array.reshape(1, *size)
    elif spec.channels == 1 and given[1:] == size[:2]:
        array = array[..., None]
    if array.ndim != 4 or array.shape[1:] != size:
        raise ImageError(_wrong_shape(given, spec))
    if not len(array):
        raise ImageError("there are no images: the batch is empty")
    if array.dtype == spec.numpy_dtype:
        return array if array.flags.c_contiguous else np.ascontiguousarray(array)
    if array.dtype == _UINT8:
        return scale_pixels(array)
    takes = "uint8" if spec.dtype == "uint8" else "float32 in [-1, 1], or uint8"
    hint = "; pass images.astype(np.float32)" if array.dtype.kind == "f" and spec.dtype == "float32" else ""
    raise ImageError(f"images are {array.dtype}, and the model takes {takes}{hint}")


def _wrong_shape(given: tuple[int, ...], spec: InputSpec) -> str:
    height, width, channels = spec.height, spec.width, spec.channels
    shapes = [f"(N, {height}, {width}, {channels})", f"({height}, {width}, {channels})"]
    if channels == 1:
        shapes += [f"(N, {height}, {width})", f"({height}, {width})"]
    text = f"images have shape {given}, and the model takes {', '.join(shapes[:-1])} or {shapes[-1]}"
    if given[-3:] == (channels, height, width) and len(given) in (3, 4):
        axes = (0, 2, 3, 1) if len(given) == 4 else (1, 2, 0)
        return f"{text}; transpose them, as in np.transpose(images, {axes})"
    return f"{text}; pictures of any size are taken as PIL images, file paths, bytes or file objects"


def _check_values(floats: list[Array], warned: set[str]) -> None:
    """Refuse float images with absolute values above `_LARGEST_FLOAT`, and warn about other probable mistakes.

    These mistakes are NaN, and values that seem to be scaled to [0, 1].
    """
    if any(np.isnan(part.min()) for part in floats):
        _warn("nan", "the images have NaN pixels, which make NaN of the answers", warned)
    low = float(np.fmin.reduce([np.fmin.reduce(part, None) for part in floats]))
    high = float(np.fmax.reduce([np.fmax.reduce(part, None) for part in floats]))
    if low < -_LARGEST_FLOAT or high > _LARGEST_FLOAT:
        raise ImageError(
            f"float images go from {low:g} to {high:g}, and the model takes float32 in [-1, 1]; pass pixels 0..255 as "
            "uint8, or scale them: pixels / 255 * 2 - 1"
        )
    # Pixels that were correctly scaled to [-1, 1] are k / 255 * 2 - 1, which is an odd multiple of 1 / 255. If all values
    # are odd multiples of 1 / 255, the images are just bright, and need no warning.
    if low >= 0 and high <= 1 and not all(np.all(np.rint(part * 255) % 2 == 1) for part in floats):
        _warn(
            "unit",
            f"the images go from {low:g} to {high:g}, and the model takes float32 in [-1, 1]; if they were scaled to "
            "[0, 1], pass images * 2 - 1",
            warned,
        )


def _warn(kind: str, text: str, warned: set[str]) -> None:
    if kind in warned:
        return
    warned.add(kind)
    _warn_caller(text)


def _warn_caller(text: str) -> None:
    # Skip the stack frames of modules whose names start with "vmoe_", so that the warning shows the caller's line.
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("vmoe_"):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, ImageWarning, stacklevel=level)


def _is_pil(value: object) -> bool:
    return type(value).__module__.startswith("PIL.") and hasattr(value, "convert")


def _from_picture(picture: Any, spec: InputSpec) -> Array:
    """Return the array [H,W,C] of type `spec.dtype` that the model's preprocessing steps make from one picture."""
    steps = spec.steps
    with opened(picture, spec.channels, steps.background is not None) as (stored, name):
        if not steps.rotates and (orientation := orientation_of(stored)) > 1:
            _count_unturned(name, orientation)
        image = arranged(stored, steps, spec.channels)
        geometry = steps.geometry(image.height, image.width, name)
        pixels = resampled(image, spec.channels, geometry)
    if geometry.method == "bilinear":
        pixels = np.floor(pixels)  # round down, because the official step casts the pixels back to uint8
    return np.rint(pixels).clip(0, 255).astype(np.uint8) if spec.dtype == "uint8" else scale_pixels(pixels)


def _count_unturned(name: str, orientation: int) -> None:
    with _counting:
        _taken["unturned"] += 1
        is_first = unturned_pictures() == 1
    if is_first:
        _warn_caller(f"{name} has EXIF orientation {orientation}, and the model takes pictures as they are stored")
