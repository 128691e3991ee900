"""Batch sizes that a TensorRT engine accepts."""

from __future__ import annotations

import os
from typing import NamedTuple

from vmoe_runtime.bundle.manifest import Manifest
from vmoe_runtime.errors import BackendError, shown

MOST_IMAGES = 65_536
VARIABLE = "VMOE_MAX_BATCH"
_DEFAULT_LARGEST = 32


class BatchRange(NamedTuple):
    """The numbers of images that one call of a TensorRT engine may have.

    The fields are the minimum, the number that the engine is tuned for, and the maximum.
    """

    smallest: int
    tuned: int
    largest: int

    def shapes(self, manifest: Manifest) -> list[tuple[int, ...]]:
        """Return three input shapes [N, H, W, C], with the minimum, the tuned and the maximum number of images as N."""
        return [(count, *manifest.input.size) for count in self]


def default_largest(multiple: int) -> int:
    """Return the default maximum number of images per call.

    This is the largest multiple of `multiple` that is at most 32. If `multiple` exceeds 32, it is `multiple` itself.
    """
    return max(_DEFAULT_LARGEST // multiple * multiple, multiple)


def range_from_environment(manifest: Manifest) -> BatchRange:
    """Return the batch sizes of an engine that is built while the backend loads.

    The environment variable VMOE_MAX_BATCH sets the maximum, and the engine is tuned for this maximum; see docs/gpu.md.

    Raises:
        BackendError: the variable's value is not a number of images.
    """
    multiple = manifest.batch_multiple
    text = os.environ.get(VARIABLE)
    if text is None:
        largest = default_largest(multiple)
    elif text.isascii() and text.isdecimal() and len(text) < 6 and 1 <= int(text) <= MOST_IMAGES:
        largest = max(int(text) // multiple * multiple, multiple)
    else:
        raise BackendError(f"{VARIABLE} must be a whole number from 1 to {MOST_IMAGES}, not {shown(text)}")
    return BatchRange(multiple, largest, largest)
