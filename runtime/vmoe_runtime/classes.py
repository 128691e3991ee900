"""Computes the most likely classes and their probabilities from logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vmoe_runtime.bundle.manifest import Probabilities

Array = np.ndarray[Any, np.dtype[Any]]


def softmax(logits: Array) -> Array:
    """Return the softmax of each row of `logits`.

    Args:
        logits: number[N, classes].

    Returns:
        float64[N, classes]. Each row sums to 1. If a row of `logits` contains a value that is not finite, the result has NaN
        in this row.
    """
    exact = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):
        powers = np.exp(exact - exact.max(axis=1, keepdims=True))
        shares: Array = powers / powers.sum(axis=1, keepdims=True)
    return shares


def sigmoid(logits: Array) -> Array:
    """Return the sigmoid of each logit. So each class has a probability independent of the other classes.

    Args:
        logits: number[N, classes].

    Returns:
        float64[N, classes]. If a logit is NaN, so is its probability.
    """
    exact = logits.astype(np.float64)
    powers = np.exp(-np.abs(exact))
    shares: Array = np.where(exact < 0, powers, 1) / (1 + powers)
    return shares


def probabilities_of(logits: Array, kind: Probabilities) -> Array:
    """Return the probabilities that belong to `logits`.

    Args:
        logits: number[N, classes].
        kind: the kind of probabilities that a bundle's manifest specifies.

    Returns:
        float64[N, classes].
    """
    return _FUNCTIONS[kind](logits)


_FUNCTIONS: Mapping[Probabilities, Callable[[Array], Array]] = {"softmax": softmax, "sigmoid": sigmoid}


def most_probable(logits: Array, top: int) -> Array:
    """Return the indices of the classes with the largest logits in each row of `logits`, largest first.

    If two logits are equal, the class with the lower index comes first.

    Returns:
        int64[N, min(top, classes)].
    """
    order: Array = np.argsort(-logits.astype(np.float64), axis=1, kind="stable")[:, :top]
    return order


def margins_of(logits: Array) -> Array:
    """Return the margin of each image as float64[N].

    The margin is the difference between the two largest softmax probabilities. If there is only one class, the margin is 1.

    Args:
        logits: number[N, classes]. If a logit of an image is not finite, the margin of this image is NaN.
    """
    shares = softmax(logits)
    if shares.shape[1] == 1:
        return np.where(np.isnan(shares[:, 0]), np.nan, 1.0)
    best = np.partition(shares, -2, axis=1)[:, -2:]
    margins: Array = best[:, 1] - best[:, 0]
    return margins
