"""What two ways to run one model are compared by: the same images, and the share of pairs that both route alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

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


def pairs_alike(expected: Sequence[Array], found: Sequence[Array], images: int) -> list[Array]:
    """For each MoE layer bool[images, pairs]: which pairs both keep at the same expert, or both drop.

    Args:
        expected, found: of `vmoe_runtime.routing.placed_pairs`.
        images: number of images.
    """
    # Groups may cut images, so pairs are put back in the order of the images.
    return [(ours == theirs).reshape(images, -1) for ours, theirs in zip(expected, found, strict=True)]
