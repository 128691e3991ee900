"""The report: one record per point, and the JSON file that holds them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vmoe_bench.measurement import Speed
from vmoe_bench.points import Point
from vmoe_bench.quality import Quality


@dataclass(frozen=True)
class PointReport:
    """What was measured at one point; the field names are the keys of the JSON.

    Attributes:
        profile: name of the routing setting; it and the next five are None where the model has no such setting.
        capacity_ratio: C as it was asked for.
        k: experts per token.
        bpr: True for Batch Priority Routing.
        pool: True where the places of a group are one pool.
        max_experts: experts that a group may use; all of them where there is no limit.
        backend: name of the backend.
        batch_size: images per call.
        threads: threads per call as asked for; None for the runtime's own choice.
        images_per_second: throughput, the batch size over the median time of a call.
        p50_ms, p99_ms: milliseconds per call.
        kept_pairs: share of the (token, choice) pairs that got a place, 0 to 1; None where there are no pairs.
        top1: share of right answers, 0 to 1; None without labels.
    """

    profile: str | None
    capacity_ratio: float | None
    k: int | None
    bpr: bool | None
    pool: bool | None
    max_experts: int | None
    backend: str
    batch_size: int
    threads: int | None
    images_per_second: float
    p50_ms: float
    p99_ms: float
    kept_pairs: float | None
    top1: float | None


def report_point(point: Point, threads: int | None, speed: Speed, quality: Quality) -> PointReport:
    """Puts together what is known about one point."""
    profile = point.profile
    return PointReport(
        profile=None if profile is None else profile.name,
        capacity_ratio=None if profile is None else profile.capacity_ratio,
        k=None if profile is None else profile.k,
        bpr=None if profile is None else profile.bpr,
        pool=None if profile is None else profile.pool,
        max_experts=None if profile is None else profile.max_experts,
        backend=point.engine.backend,
        batch_size=point.batch_size,
        threads=threads,
        **asdict(speed),
        **asdict(quality),
    )


def to_json(machine: Mapping[str, Any], points: Sequence[PointReport]) -> dict[str, Any]:
    """The report, ready for JSON: `{"machine": {...}, "points": [...]}`."""
    return {"machine": dict(machine), "points": [asdict(point) for point in points]}
