"""What the numbers of a sweep say: where accuracy begins to fall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vmoe_tools.bench.report import PointReport

ROUNDING = 1e-9
"""Of shares that are asked for in decimals."""


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
    bad = [index for index in range(at) if known[index][1] < best - max_drop - ROUNDING]
    good = bad[-1] + 1 if bad else 0
    return Fall(known[at][0], known[good][0], known[bad[-1]][0] if bad else None)
