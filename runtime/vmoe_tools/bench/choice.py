"""Which of the measured points are worth having, and which one to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vmoe_tools.bench.report import PointReport
from vmoe_tools.command_line import CommandError

_ROUNDING = 1e-9  # of shares that are asked for in decimals


@dataclass(frozen=True)
class Wish:
    """What a recommended point must keep to.

    Attributes:
        max_drop: most accuracy to lose against the most accurate point, 0 to 1; None for no such limit.
        target_ms: longest median time of a call in milliseconds; None for no such limit.
    """

    max_drop: float | None = None
    target_ms: float | None = None


def mark_front(points: Sequence[PointReport]) -> list[PointReport]:
    """The same points with `pareto` said, as far as they have both a speed and an accuracy."""
    known = [(p.images_per_second, p.top1) for p in points if p.images_per_second is not None and p.top1 is not None]

    def beaten(speed: float, top1: float) -> bool:
        return any((s >= speed and t >= top1) and (s > speed or t > top1) for s, t in known)

    return [
        point
        if point.images_per_second is None or point.top1 is None
        else replace(point, pareto=not beaten(point.images_per_second, point.top1))
        for point in points
    ]


def recommend(points: Sequence[PointReport], wish: Wish) -> PointReport:
    """The point to take.

    With `max_drop` that is the fastest per image of those that are accurate enough, without it the most accurate of those
    that are fast enough. Of equal ones it is the one with fewer FLOPs.

    Args:
        points: what was measured, whole.
        wish: with at least one limit.

    Raises:
        CommandError: nothing was measured that keeps to the limits.
    """
    best = max(point.top1 for point in points if point.top1 is not None)
    least = 0.0 if wish.max_drop is None else best - wish.max_drop - _ROUNDING
    accurate = [p for p in points if p.top1 is not None and p.top1 >= least]
    fitting = [p for p in accurate if wish.target_ms is None or (p.p50_ms is not None and p.p50_ms <= wish.target_ms)]
    if not fitting:
        fastest = min(p.p50_ms for p in accurate if p.p50_ms is not None)
        among = "" if wish.max_drop is None else " of those that are accurate enough"
        raise CommandError(f"no setting takes {wish.target_ms:g} ms or less: the fastest{among} takes {fastest:.3g} ms")

    def worth(point: PointReport) -> tuple[float, ...]:
        speed, top1, flops = point.images_per_second or 0.0, point.top1 or 0.0, -(point.flops_per_image or 0)
        return (speed, top1, flops) if wish.max_drop is not None else (top1, speed, flops)

    return max(fitting, key=worth)
