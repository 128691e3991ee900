"""How many images a call of a TensorRT engine may have."""

from __future__ import annotations

import os
from typing import NamedTuple

from vmoe_runtime.bundle.manifest import Manifest
from vmoe_runtime.errors import BackendError, shown

MOST_IMAGES = 65_536
VARIABLE = "VMOE_MAX_BATCH"
_DEFAULT_LARGEST = 32


class BatchRange(NamedTuple):
    """Images per call: the minimum, the number that TensorRT tunes for, and the maximum."""

    smallest: int
    tuned: int
    largest: int

    def shapes(self, manifest: Manifest) -> list[tuple[int, ...]]:
        """Shapes [N, H, W, C] of the graph's input at the three sizes."""
        return [(count, *manifest.input.size) for count in self]


def default_largest(multiple: int) -> int:
    """The default for the maximum of images per call: the largest multiple of `multiple` up to 32, or else `multiple`."""
    return max(_DEFAULT_LARGEST // multiple * multiple, multiple)


def range_from_environment(manifest: Manifest) -> BatchRange:
    """The batch sizes of an engine that is built on loading, tuned for the largest; see VMOE_MAX_BATCH in docs/gpu.md.

    Raises:
        BackendError: the variable is not a number of images.
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
