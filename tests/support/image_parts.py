"""Calls of many images, in parts that stay in a processor's caches: they take half as long as one call of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

PART = 64  # images, which are whole groups of 16


def in_parts(run: Callable[[np.ndarray], Sequence[np.ndarray]], images: np.ndarray) -> list[np.ndarray]:
    """What `run` gives for images, whose outputs have an axis of images or groups first."""
    parts = [run(images[first : first + PART]) for first in range(0, len(images), PART)]
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
