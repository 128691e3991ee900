"""What two ways to run one model are compared by: the same images, and the share of pairs that both route alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vmoe_runtime.profiles import Profile
from vmoe_runtime.resampling import resize_bilinear

Array = np.ndarray[Any, np.dtype[Any]]

_SEED = 20220622


def smooth_images(count: int, height: int, width: int, channels: int) -> Array:
    """Random images with the smooth shading of photographs, the same every time.

    Returns:
        uint8[count, height, width, channels].
    """
    rng = np.random.default_rng(_SEED)
    images = np.empty((count, height, width, channels), np.uint8)
    for image in images:
        shade = 127.5 + rng.normal(0, 4, image.shape)
        for cells in (2, 4, 8, 16):
            coarse = rng.standard_normal((cells, cells, channels))
            shade += 80 / cells**0.5 * resize_bilinear(coarse, height, width)
        image[...] = np.clip(shade, 0, 255)
    return images


def pairs_alike(expected: Sequence[Array], found: Sequence[Array], profile: Profile) -> list[Array]:
    """For each MoE layer bool[images, tokens * K]: which (token, choice) pairs both keep at the same expert, or both drop.

    Args:
        expected, found: logits (or features), then slot and weight of each MoE layer.
        profile: the profile that both ran with.
    """
    # Groups may cut images, so pairs are put back in the order of the images.
    return [
        (_expert(ours, places) == _expert(theirs, places)).reshape(len(expected[0]), -1)
        for ours, theirs, places in zip(expected[1::2], found[1::2], profile.capacity, strict=True)
    ]


def _expert(slot: Array, capacity: int) -> Array:
    """The expert that each pair got a place at, -1 where it was dropped."""
    return np.where(slot < 0, -1, slot // (slot.shape[0] * capacity))
