"""Scales of int8 weights: one that is no positive number would make answers of NaN, zeros or the wrong sign."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np

from vmoe_runtime.bundle.external_data import ExternalData
from vmoe_runtime.errors import BundleError

_SCALES = re.compile(rb"(.*/)?kernel_scale(/[0-9]+)*", re.DOTALL)
_CHUNK = 1 << 20  # bytes; they are few, but a bundle may say otherwise


def scales_among(references: Iterable[ExternalData]) -> list[ExternalData]:
    """Those of what a graph reads that are scales, by their names."""
    return [reference for reference in references if _SCALES.fullmatch(reference.name)]


def check_scales(weights: BinaryIO, scales: Iterable[ExternalData]) -> None:
    """Reads the scales, float32 each, and refuses any that is not a positive finite number.

    Raises:
        BundleError: with the name of the scales.
    """
    alignment = checked = 0
    # Graphs read the same scales, and a bundle may say so a million times: each is read once where it is aligned alike.
    for reference in sorted(scales, key=lambda scale: (scale.offset % 4, scale.offset)):
        name = reference.name.decode(errors="replace")
        length = reference.length or 0
        if length == 0 or length % 4:
            raise BundleError(f"a graph reads {length} bytes of {name!r:.100}, which are no float32 scales")
        if reference.offset % 4 != alignment:
            alignment, checked = reference.offset % 4, 0
        end = reference.offset + length
        _check_values(weights, name, max(reference.offset, checked), end)
        checked = max(checked, end)


def _check_values(weights: BinaryIO, name: str, offset: int, end: int) -> None:
    weights.seek(offset)
    while offset < end:
        data = weights.read(min(end - offset, _CHUNK))
        values = np.frombuffer(data[: len(data) // 4 * 4], "<f4")
        if not (np.isfinite(values) & (values > 0)).all() or not data:
            raise BundleError(
                f"weights.safetensors holds a scale in {name!r:.100} that is no positive number; export the model again"
            )
        offset += len(data)
