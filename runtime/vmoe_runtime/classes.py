"""From logits to the likeliest classes."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def softmax(logits: Array) -> Array:
    """float64[N, classes] of logits number[N, classes]: each row sums to 1; rows that are not finite give NaN."""
    exact = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):
        powers = np.exp(exact - exact.max(axis=1, keepdims=True))
        shares: Array = powers / powers.sum(axis=1, keepdims=True)
    return shares


def likeliest(logits: Array, top: int) -> Array:
    """i64[N, min(top, classes)]: the classes with the largest logits of each row, largest first, ties lower index first."""
    order: Array = np.argsort(-logits.astype(np.float64), axis=1, kind="stable")[:, :top]
    return order
