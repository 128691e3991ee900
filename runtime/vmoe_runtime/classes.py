"""Computes the most likely classes and their probabilities from logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vmoe_runtime.bundle.manifest import Probabilities

Array = np.ndarray[Any, np.dtype[Any]]


def softmax(logits: Array) -> Array:
    """Return the softmax of logits number[N, classes] as float64[N, classes].

    Each row sums to 1. A row that is not finite gives NaN.
    """
    exact = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):
        powers = np.exp(exact - exact.max(axis=1, keepdims=True))
        shares: Array = powers / powers.sum(axis=1, keepdims=True)
    return shares


def sigmoid(logits: Array) -> Array:
    """Return the sigmoid of logits number[N, classes] as float64[N, classes].

    Each class gets its own probability, independent of the other classes. NaN gives NaN.
    """
    exact = logits.astype(np.float64)
    powers = np.exp(-np.abs(exact))
    shares: Array = np.where(exact < 0, powers, 1) / (1 + powers)
    return shares


def probabilities_of(logits: Array, kind: Probabilities) -> Array:
    """Return the probabilities float64[N, classes] of logits number[N, classes].

    `kind` is the kind of probabilities that a bundle's manifest names.
    """
    return _FUNCTIONS[kind](logits)


_FUNCTIONS: Mapping[Probabilities, Callable[[Array], Array]] = {"softmax": softmax, "sigmoid": sigmoid}


def most_probable(logits: Array, top: int) -> Array:
    """Return i64[N, min(top, classes)]: the classes with the largest logits of each row, largest first.

    If two logits are equal, the class with the lower index comes first.
    """
    order: Array = np.argsort(-logits.astype(np.float64), axis=1, kind="stable")[:, :top]
    return order


def margins_of(logits: Array) -> Array:
    """Return the margin of each answer, float64[N].

    The margin is the difference of the two largest softmax probabilities. If there is only one class, it is 1.

    Args:
        logits: number[N, classes]; an image with a logit that is not finite has the margin NaN.
    """
    shares = softmax(logits)
    if shares.shape[1] == 1:
        return np.where(np.isnan(shares[:, 0]), np.nan, 1.0)
    best = np.partition(shares, -2, axis=1)[:, -2:]
    margins: Array = best[:, 1] - best[:, 0]
    return margins
