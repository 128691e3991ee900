"""The report: one record per point, and the JSON and CSV files that hold them all."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TextIO

from vmoe_measure.timing import Speed
from vmoe_tools.bench.cascades import CascadePoint
from vmoe_tools.bench.points import Point
from vmoe_tools.bench.quality import Quality


@dataclass(frozen=True)
class PointReport:
    """What was measured at one point; the field names are the keys of the JSON and the columns of the CSV.

    Attributes:
        bundle: name of the bundle.
        precision: of its large products.
        profile: name of the routing setting; it and the next five are None where the model has no such setting.
        capacity_ratio: C as it was asked for.
        k: experts per token.
        bpr: True for Batch Priority Routing.
        pool: True where the places of a group are one pool.
        max_experts: experts that a group may use; all of them where there is no limit.
        backend: name of the backend.
        batch_size: images per call.
        threads: threads per call as asked for; None for the runtime's own choice.
        images_per_second: throughput, the batch size over the median time of a call, or of a round of calls at once; it and
            the next three are None where the measurement was interrupted before.
        p50_ms, p90_ms, p99_ms: milliseconds per call.
        kept_pairs: share of the (token, choice) pairs that got a place, 0 to 1; None where there are no pairs.
        top1: share of right answers, 0 to 1; None without labels.
        images: images that the last two and the next two are about.
        flops_per_image: of matrix products, those of experts for the rows that they were given.
        expert_bytes_per_call: bytes of expert weight matrices that a call reads, on average.
        pareto: whether no other point is as fast per image and as accurate, and better in one; None without labels.
        concurrency: calls at once.
        streams: calls that the backend runs at once, as asked for; None for its own choice.
        then: name of the second setting of two steps; None, as the next two, for a point of one step.
        margin: images are sent on to it whose two likeliest classes differ by less in probability, calibrated on all images.
            Accuracy is what comes of it on images that a margin was not calibrated on.
        escalated: share of the images that were.
    """

    bundle: str
    precision: str
    profile: str | None
    capacity_ratio: float | None
    k: int | None
    bpr: bool | None
    pool: bool | None
    max_experts: int | None
    backend: str
    batch_size: int
    threads: int | None
    images_per_second: float | None
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    kept_pairs: float | None
    top1: float | None
    images: int
    flops_per_image: int | None
    expert_bytes_per_call: int | None
    pareto: bool | None = None
    concurrency: int = 1
    streams: int | None = None
    then: str | None = None
    margin: float | None = None
    escalated: float | None = None

    @property
    def mega_flops(self) -> float | None:
        """MFLOP per image."""
        return self.flops_per_image / 1e6 if self.flops_per_image else None

    @property
    def ms_per_image(self) -> float | None:
        """Milliseconds per image, of calls one after another."""
        return 1000 / self.images_per_second if self.images_per_second else None


def report_point(point: Point, speed: Speed | None, quality: Quality) -> PointReport:
    """Puts together what is known about one point."""
    profile = point.profile
    unknown = dict.fromkeys(field.name for field in fields(Speed))
    return PointReport(
        bundle=point.loaded.bundle,
        precision=point.engine.manifest.precision,
        profile=None if profile is None else profile.name,
        capacity_ratio=None if profile is None else profile.capacity_ratio,
        k=None if profile is None else profile.k,
        bpr=None if profile is None else profile.bpr,
        pool=None if profile is None else profile.pool,
        max_experts=None if profile is None else profile.max_experts,
        backend=point.engine.backend,
        batch_size=point.batch_size,
        concurrency=point.concurrency,
        threads=point.loaded.parallelism.threads,
        streams=point.loaded.parallelism.streams,
        **(unknown if speed is None else asdict(speed)),
        **asdict(quality),
    )


def report_cascade(cascade: CascadePoint, speed: Speed | None, quality: Quality, escalated: float) -> PointReport:
    """Puts together what is known about two steps: the point of the first one, with the second beside it."""
    assert cascade.then.profile is not None
    first = report_point(cascade.first, speed, quality)
    return replace(first, then=cascade.then.profile.name, margin=cascade.plan.margin, escalated=escalated)


def report_json(machine: Mapping[str, Any], points: Sequence[PointReport], **more: Any) -> dict[str, Any]:
    """The report, ready for JSON: `{"machine": {...}, "points": [...]}`, and what else there is to say.

    That is `cascades`, points of two steps, and `recommended`, the index of a point, where they were asked for; and
    `interrupted`, true, where it was cut short.
    """
    return {"machine": dict(machine), "points": [asdict(point) for point in points], **more}


def write_csv(points: Sequence[PointReport], file: TextIO) -> None:
    """Writes one line per point under a line with the field names; None is an empty cell."""
    writer = csv.DictWriter(file, [field.name for field in fields(PointReport)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(point) for point in points)
