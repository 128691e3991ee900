"""Calibration of a cascade: finds the margin at which the cascade is as accurate as its second setting alone.

A cascade first runs every image at its first setting. If the two largest probabilities in the result differ by less
than the margin, the cascade escalates the image: it runs the image again at the second setting.
"""

from __future__ import annotations

import numpy as np

from vmoe_runtime.classes import margins_of
from vmoe_runtime.errors import ClassifyError
from vmoe_runtime.routing import Array

ESCALATE_ALL = 2.0
"""A margin above that of every answer, so that every image is escalated."""


def calibrated_margin(first: Array, then: Array, labels: Array | None = None, lost: int = 0) -> float:
    """Return the smallest margin that makes a cascade as accurate as its second setting alone.

    The cascade is also as accurate at every larger margin.

    Args:
        first: number[N, classes], logits at the first setting. To compute them, route each image alone, or together with
            the images that it is usually routed with.
        then: number[N, classes], logits of the same images at the second setting.
        labels: i64[N], the class of each image. If None, the classes predicted at the second setting count as correct.
        lost: number of correct predictions that the cascade may lose compared with its second setting.

    Returns:
        The margin. It is 0 if no image needs to be escalated, and at most `ESCALATE_ALL`.

    Raises:
        ClassifyError: the shapes of the logits and labels don't fit, or the labels are not numbers.
    """
    answers = then.argmax(axis=-1)
    truth = answers if labels is None else np.asarray(labels)
    if then.ndim != 2 or first.shape != then.shape or truth.shape != then.shape[:1] or truth.dtype.kind not in "iuf":
        raise ClassifyError(
            f"a margin needs logits [N, classes] twice and numbers [N] as labels, not {first.shape}, {then.shape} and "
            f"{truth.dtype} {truth.shape}"
        )
    gain = (answers == truth).astype(int) - (first.argmax(axis=1) == truth)
    return margin_of_gains(margins_of(first), gain, lost)


def margin_of_gains(margins: Array, gain: Array, lost: int = 0) -> float:
    """Return the same margin as `calibrated_margin`, but compute it from margins and gains instead of logits.

    Args:
        margins: f64[N], each image's margin at the first setting; see `margins_of`.
        gain: i64[N], for each image: 1 if only the second setting classifies the image correctly, -1 if only the first
            setting does, else 0.
        lost: number of correct predictions that the cascade may lose.
    """
    ranked = np.where(np.isnan(margins), -1.0, margins)  # rank NaN lowest, so that the image is always escalated
    order = np.argsort(ranked)
    candidates = np.unique([0.0, *ranked[ranked > 0], ESCALATE_ALL])
    # right[n]: number of images that the cascade classifies correctly at the margin candidates[n], minus the number that the
    # first setting alone classifies correctly.
    right = np.concatenate([[0], np.cumsum(gain[order])])[np.searchsorted(ranked[order], candidates)]
    short = np.flatnonzero(right < right[-1] - lost)
    return float(candidates[min(short[-1] + 1, len(candidates) - 1) if len(short) else 0])
