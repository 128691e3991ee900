"""The margin at which a cascade is as accurate as its second setting."""

from __future__ import annotations

import numpy as np

from vmoe_runtime.classes import margins_of
from vmoe_runtime.errors import ClassifyError
from vmoe_runtime.routing import Array

ESCALATE_ALL = 2.0
"""A margin above that of every answer, so that every image is escalated."""


def calibrated_margin(first: Array, then: Array, labels: Array | None = None, lost: int = 0) -> float:
    """The smallest margin from which on a cascade is as accurate as its second setting alone.

    Args:
        first: logits at the first setting, number[N, classes]; each image routed alone, or together with the usual others.
        then: logits of the same images at the second setting.
        labels: i64[N], their classes; without them, the answers of the second setting count as correct.
        lost: number of correct answers that may be lost.

    Returns:
        0 if nothing needs to be escalated, up to `ESCALATE_ALL`.

    Raises:
        ClassifyError: logits or labels have other shapes, or labels are not numbers.
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
    """As `calibrated_margin`, but from margins and gains instead of logits.

    Args:
        margins: f64[N], margins of the answers at the first setting; see `margins_of`.
        gain: i64[N], 1 for an image that only the second setting gets right, -1 for one that only the first does, else 0.
        lost: number of correct answers that may be lost.
    """
    ranked = np.where(np.isnan(margins), -1.0, margins)  # NaN is escalated at any margin
    order = np.argsort(ranked)
    candidates = np.unique([0.0, *ranked[ranked > 0], ESCALATE_ALL])
    # right[n]: correct answers at a margin of candidates[n], minus those of the first setting alone.
    right = np.concatenate([[0], np.cumsum(gain[order])])[np.searchsorted(ranked[order], candidates)]
    short = np.flatnonzero(right < right[-1] - lost)
    return float(candidates[min(short[-1] + 1, len(candidates) - 1) if len(short) else 0])
