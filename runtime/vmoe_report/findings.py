"""What the numbers of a sweep say: where accuracy begins to fall, and what two steps would gain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vmoe_bench.report import PointReport
from vmoe_report.observer import Answers

Array = np.ndarray[Any, np.dtype[Any]]

_STEPS = 40
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Fall:
    """Where accuracy begins to fall along a curve.

    Attributes:
        best: place of the most accurate setting among the points, of equal ones the one of lowest capacity.
        last_good: place of the lowest capacity from which on, up to the best, every setting is accurate enough.
        first_bad: that of the next lower capacity; None where even the lowest is accurate enough.
    """

    best: int
    last_good: int
    first_bad: int | None


@dataclass(frozen=True)
class TwoSteps:
    """Two-step inference on the measured images: all of them at a low setting, the least sure ones again at a high one.

    Attributes:
        first, then: places of the two settings among the points.
        shares: share of the images that are sent on, rising from 0 to 1.
        top1: share of right answers then.
        flops_per_image: mean over the images.
        enough: place in these lists of the smallest share from which on it is right as often as the second setting alone.
    """

    first: int
    then: int
    shares: tuple[float, ...]
    top1: tuple[float, ...]
    flops_per_image: tuple[float, ...]
    enough: int


def find_fall(points: Sequence[PointReport], curve: Sequence[int], max_drop: float) -> Fall | None:
    """Where accuracy begins to fall; None without labels.

    Args:
        points: what was measured.
        curve: places of a curve's settings among them, capacity rising.
        max_drop: accuracy that may be lost against the curve's best, 0 to 1.
    """
    known = [(place, top1) for place in curve if (top1 := points[place].top1) is not None]
    if not known:
        return None
    at = max(range(len(known)), key=lambda index: known[index][1])
    best = known[at][1]
    bad = [index for index in range(at) if known[index][1] < best - max_drop - _ROUNDING]
    good = bad[-1] + 1 if bad else 0
    return Fall(known[at][0], known[good][0], known[bad[-1]][0] if bad else None)


def find_two_steps(
    points: Sequence[PointReport], answers: Sequence[Answers | None], candidates: Sequence[int], labels: Array | None
) -> TwoSteps | None:
    """The pair of settings that is right as often as the most accurate one at the fewest FLOPs.

    Args:
        points: what was measured.
        answers: of each of them.
        candidates: places of the settings of one bundle in which every image is a group of its own.
        labels: i64[N], what the images show; None where that isn't known.

    Returns:
        None without labels or FLOPs, or where no pair needs fewer FLOPs than the most accurate setting alone.
    """
    if labels is None or not candidates or any(points[place].flops_per_image is None for place in candidates):
        return None
    then = max(candidates, key=lambda place: (points[place].top1 or 0.0, -(points[place].flops_per_image or 0)))
    pairs = [
        pair
        for first in candidates
        if (points[first].flops_per_image or 0) < (points[then].flops_per_image or 0)
        if (pair := _pair(points, answers, first, then, labels)) is not None
    ]
    best = min(pairs, key=lambda pair: pair.flops_per_image[pair.enough], default=None)
    if best is None or best.flops_per_image[best.enough] >= (points[then].flops_per_image or 0):
        return None
    return best


def _pair(
    points: Sequence[PointReport], answers: Sequence[Answers | None], first: int, then: int, labels: Array
) -> TwoSteps | None:
    low, high = answers[first], answers[then]
    if low is None or high is None:
        return None
    count = len(low.classes)
    order = np.argsort(np.where(np.isnan(low.margins), -1.0, low.margins), kind="stable")
    gained = (high.classes == labels[:count]).astype(np.int64) - (low.classes == labels[:count])
    right = np.count_nonzero(low.classes == labels[:count]) + np.concatenate([[0], np.cumsum(gained[order])])
    short = np.flatnonzero(right < right[-1])
    enough = int(short[-1]) + 1 if len(short) else 0
    sent = np.unique([*np.linspace(0, count, _STEPS + 1).round().astype(np.int64), enough])
    low_flops, high_flops = points[first].flops_per_image or 0, points[then].flops_per_image or 0
    return TwoSteps(
        first,
        then,
        tuple(float(n) / count for n in sent),
        tuple(float(right[n]) / count for n in sent),
        tuple(low_flops + float(n) / count * high_flops for n in sent),
        int(np.flatnonzero(sent == enough)[0]),
    )
