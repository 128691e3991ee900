"""How far answers are apart."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def absolute_differences(ours: Array, theirs: Array) -> Array:
    """f64 of the shape of both: |ours - theirs|, and 0 where both are the same infinity, or both no number."""
    with np.errstate(invalid="ignore"):
        apart = np.abs(ours.astype(np.float64) - theirs)
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    distances: Array = np.where(same, 0.0, apart)
    return distances
