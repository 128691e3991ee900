"""The sample images of a report: which ones, and how they stand in the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from vmoe_measure.image_source import ImageSource
from vmoe_runtime.bundle.manifest import InputSpec
from vmoe_runtime.images import to_batch

Array = np.ndarray[Any, np.dtype[Any]]

_LARGEST_PNG = 64  # pixels of a side; larger ones are photographs, of which a JPEG is much smaller
_LARGEST_SIDE = 224
_QUALITY = 82


def choose_samples(labels: Array | None, available: int, wanted: int) -> list[int]:
    """Places of images to show, rising: of every class alike as far as there are labels, the first ones first.

    Args:
        labels: i64[N] or None.
        available: how many of the first images may be shown.
        wanted: how many to show.

    Example:
        >>> choose_samples(np.array([3, 3, 1, 3, 1, 2]), 6, 4)
        [0, 1, 2, 5]
    """
    if labels is None:
        return list(range(min(wanted, available)))
    seen: dict[int, int] = {}
    ranks = []
    for place, label in enumerate(labels[:available].tolist()):
        seen[label] = seen.get(label, 0) + 1
        ranks.append((seen[label], place))
    return sorted(place for _, place in sorted(ranks)[:wanted])


def sample_pixels(source: ImageSource, samples: Sequence[int], spec: InputSpec) -> list[Array]:
    """uint8[H,W,C] of each sample, as the model sees it.

    Raises:
        ImageError: the images don't fit the model, or a file can't be read.
    """
    return [_pixels(to_batch(source.images[place : place + 1], spec)[0]) for place in samples]


def data_uri(pixels: Array) -> str:
    """A picture uint8[H,W,C] as a `data:` address: PNG where it is small, else a JPEG of at most 224 pixels a side."""
    image = Image.fromarray(pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., 0])
    small = max(image.size) <= _LARGEST_PNG
    file = io.BytesIO()
    if not small:
        image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    image.save(file, "PNG" if small else "JPEG", **({"optimize": True} if small else {"quality": _QUALITY}))
    return f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(file.getvalue()).decode()}"


def _pixels(image: Array) -> Array:
    """uint8 of what a graph takes: uint8, or float32 in [-1, 1]."""
    if image.dtype == np.uint8:
        return image
    return np.rint((np.nan_to_num(image) + 1) * 127.5).clip(0, 255).astype(np.uint8)
