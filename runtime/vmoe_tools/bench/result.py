"""The results of a measurement: one record per point, the JSON and CSV of all of them, the best ones, and which to take."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import click
import numpy as np

from vmoe_measure.timing import Speed
from vmoe_runtime.routing import Array
from vmoe_runtime.settings import ROWS, SettingValue
from vmoe_tools.bench.cascades import CascadePoint
from vmoe_tools.bench.points import Point
from vmoe_tools.bench.quality import Quality

ROUNDING = 1e-9
"""Of accuracies that may be lost, which are typed as decimals."""


@dataclass(frozen=True)
class PointResult:
    """What was measured at one point; the field names are the keys of the JSON and the columns of the CSV, which have each
    setting of the profile in a place of its own.

    Attributes:
        bundle: name of the bundle.
        precision: of its large products.
        profile: name of the routing setting; None if the model has nothing to set.
        setting: the value of every setting by its key in results, such as `capacity_ratio`; None if the model has no such
            setting.
        backend: name of the backend.
        batch_size: images per call.
        threads: threads per call as requested; None for the runtime's own choice.
        images_per_second: throughput, the batch size over the median time of a call, or of a round of concurrent calls; it
            and the next five are None where the measurement was interrupted before.
        p50_ms, p90_ms, p99_ms: milliseconds per call.
        p50_low_ms, p50_high_ms: the 95 % confidence interval of p50_ms.
        kept_pairs: share of the (token, choice) pairs that got a slot, 0 to 1; None where there are no pairs.
        top1: accuracy, 0 to 1; None without labels.
        images: images that the last two and the next two are about.
        flops_per_image: of matrix products, those of experts for the rows that they worked on.
        expert_bytes_per_call: bytes of expert weight matrices that a call reads, on average.
        pareto: whether no other point is as fast per image and as accurate, and better in one; None without labels.
        chance: accuracy of always answering the most frequent class of the labels; None without labels.
        concurrency: concurrent calls.
        streams: calls that the backend runs concurrently, as requested; None for its own choice.
        then: name of the second setting of a cascade; None, as the next two, for a single setting.
        margin: images are escalated to it whose two likeliest classes differ by less in probability, calibrated on all
            images. The accuracy is that on images that a margin was not calibrated on.
        escalated: share of the images that were.
        compared: whether it is of another model, which the others are compared with.
        speed_ratio: images_per_second over that of the first model to compare with, on the same backend, at the same
            batch size and concurrency; it and the next one are None without such a model.
        flops_ratio: flops_per_image over that model's.
        agreement, cosine_mean, cosine_p5, cosine_least, same_neighbour: if there are several bundles, how close the outputs
            come to those of the most exact one, see `vmoe_tools.bench.closeness.Closeness`.
    """

    bundle: str
    precision: str
    profile: str | None
    setting: Mapping[str, SettingValue | None]
    backend: str
    batch_size: int
    threads: int | None
    images_per_second: float | None
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    p50_low_ms: float | None
    p50_high_ms: float | None
    kept_pairs: float | None
    top1: float | None
    images: int
    flops_per_image: int | None
    expert_bytes_per_call: int | None
    pareto: bool | None = None
    chance: float | None = None
    concurrency: int = 1
    streams: int | None = None
    then: str | None = None
    margin: float | None = None
    escalated: float | None = None
    compared: bool = False
    speed_ratio: float | None = None
    flops_ratio: float | None = None
    agreement: float | None = None
    cosine_mean: float | None = None
    cosine_p5: float | None = None
    cosine_least: float | None = None
    same_neighbour: float | None = None

    @property
    def capacity_ratio(self) -> float | None:
        """C as requested."""
        return self.setting["capacity_ratio"]

    def record(self) -> dict[str, Any]:
        """The keys and values of the JSON."""
        columns = {key: value for key, value in asdict(self).items() if key != "setting"}
        before = {key: columns.pop(key) for key in ("bundle", "precision", "profile")}
        return {**before, **self.setting, **columns}

    @property
    def name(self) -> str:
        """Of the setting, or of the bundle where it has none; of another model both."""
        if self.compared and self.profile is not None:
            return f"{self.bundle} at {self.profile}"
        return self.profile or self.bundle

    @property
    def mega_flops(self) -> float | None:
        """MFLOP per image."""
        return self.flops_per_image / 1e6 if self.flops_per_image else None

    @property
    def ms_per_image(self) -> float | None:
        """Milliseconds per image, of calls one after another."""
        return 1000 / self.images_per_second if self.images_per_second else None

    @property
    def speed_interval(self) -> tuple[float, float]:
        """Images per second, from the lowest to the highest within the interval of the median; zeros where not measured."""
        speed, p50 = self.images_per_second, self.p50_ms
        if not speed or not p50 or not self.p50_low_ms or not self.p50_high_ms:
            return 0.0, 0.0
        return speed * p50 / self.p50_high_ms, speed * p50 / self.p50_low_ms


def point_result(point: Point, speed: Speed | None, quality: Quality) -> PointResult:
    """Puts together what is known about one point."""
    profile = point.profile
    unknown = dict.fromkeys(field.name for field in fields(Speed))
    return PointResult(
        bundle=point.loaded.name,
        precision=point.engine.manifest.precision,
        profile=None if profile is None else profile.name,
        setting=dict.fromkeys(row.stored for row in ROWS.values()) if profile is None else profile.stored(),
        backend=point.engine.backend,
        batch_size=point.batch_size,
        concurrency=point.concurrency,
        threads=point.loaded.parallelism.threads,
        streams=point.loaded.parallelism.streams,
        compared=point.loaded.compared,
        **(unknown if speed is None else asdict(speed)),
        **asdict(quality),
    )


def cascade_result(cascade: CascadePoint, speed: Speed | None, quality: Quality, escalated: float) -> PointResult:
    """Puts together what is known about a cascade: the point of the first step, with the second beside it."""
    assert cascade.then.profile is not None
    first = point_result(cascade.point, speed, quality)
    return replace(first, then=cascade.then.profile.name, margin=cascade.plan.margin, escalated=escalated)


def csv_text(points: Sequence[PointResult]) -> str:
    """One line per point under a line with the field names; None is an empty cell."""
    records, file = [point.record() for point in points], io.StringIO()
    writer = csv.DictWriter(file, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue()


def mark(points: Sequence[PointResult], labels: Array | None = None) -> list[PointResult]:
    """The same points with `pareto`, as far as they have both a speed and an accuracy, with `chance` and the ratios.

    Args:
        points: results.
        labels: i64[N] of the images; None where they are not known.
    """
    known = [(p.images_per_second, p.top1) for p in points if p.images_per_second is not None and p.top1 is not None]

    def on_front(point: PointResult) -> bool | None:
        speed, top1 = point.images_per_second, point.top1
        if speed is None or top1 is None:
            return None
        return not any((s >= speed and t >= top1) and (s > speed or t > top1) for s, t in known)

    marked = []
    for point in points:
        other = next(iter(_compared_with(point, points)), None)
        speed, flops = (
            _ratio(getattr(point, name), getattr(other, name, None)) for name in ("images_per_second", "flops_per_image")
        )
        # Of the images that the accuracy is of: what fills no whole batch has no part in it.
        chance = None if labels is None else float(np.bincount(labels[: point.images]).max() / point.images)
        marked.append(replace(point, pareto=on_front(point), chance=chance, speed_ratio=speed, flops_ratio=flops))
    return marked


def comparison(point: PointResult, points: Sequence[PointResult], shown: Callable[[float | None], str]) -> str:
    """A sentence on how a point stands beside each other model; empty without one.

    Args:
        point: complete result.
        points: all results.
        shown: makes a text of a share.
    """
    sentences = []
    for other in _compared_with(point, points):
        (low, high), (other_low, other_high) = point.speed_interval, other.speed_interval
        least, most = low / other_high, high / other_low
        how = "faster than" if least > 1 else "slower than" if most < 1 else "not told apart by this timing from"
        speed = _ratio(point.images_per_second, other.images_per_second)
        parts = [f"{ratio_text(speed)} x its speed ({ratio_text(least)} - {ratio_text(most)} by the intervals of both)"]
        if (flops := _ratio(point.flops_per_image, other.flops_per_image)) is not None:
            parts.append(f"{ratio_text(flops)} x its FLOPs")
        if point.top1 is not None and other.top1 is not None:
            parts.append(f"{shown(point.top1)} accuracy where that has {shown(other.top1)}")
        sentences.append(f"{point.name} is {how} {other.name}: {', '.join(parts)}.")
    return " ".join(sentences)


def ratio_text(ratio: float | None) -> str:
    """A ratio with two digits behind the point, or two that are not 0; a dash where it is not known."""
    return "-" if ratio is None else f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"


def _compared_with(point: PointResult, points: Sequence[PointResult]) -> list[PointResult]:
    """The other models that were measured as the point was."""
    how = point.backend, point.batch_size, point.concurrency
    return [other for other in points if other.compared and (other.backend, other.batch_size, other.concurrency) == how]


def _ratio(value: float | None, other: float | None) -> float | None:
    return value / other if value is not None and other else None


def share_error(share: float, images: int) -> float:
    """The standard error of a share that was measured on so many images."""
    return math.sqrt(share * (1 - share) / images)


def share_interval(right: int, count: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share of `count` trials, by Wilson's formula.

    Examples:
        >>> [round(end, 3) for end in share_interval(95, 100)]
        [0.888, 0.978]
    """
    z = 1.96
    middle, whole = right + z * z / 2, count + z * z
    half = z * math.sqrt(right * (count - right) / count + z * z / 4)
    return (middle - half) / whole, (middle + half) / whole


def near_chance(points: Sequence[PointResult]) -> str | None:
    """A sentence on the points less than two standard errors better than always one class; None where there are none."""
    known = [(point, point.top1, point.chance) for point in points if point.top1 is not None and point.chance]
    near = [point for point, top1, chance in known if top1 <= chance + 2 * share_error(chance, point.images)]
    if not near:
        return None
    where = ", ".join(point.name for point in near)
    return (
        f"The accuracy of {where} is near chance: always answering the most frequent class would be correct for "
        f"{near[0].chance or 0.0:.1%} of these images."
    )


def recommend(
    points: Sequence[PointResult], among: Sequence[int], max_drop: float | None = None, target_ms: float | None = None
) -> list[int]:
    """Indices of the points that are as fast as the fastest one that keeps to the limits, the recommended one first.

    With `max_drop` a point may be that much less accurate than the most accurate one; without it, it must be as accurate as
    the most accurate one that is fast enough.

    Args:
        points: complete results.
        among: indices of those that may be recommended.
        max_drop: most accuracy to lose, 0 to 1; None for no such limit.
        target_ms: longest median time of a call in milliseconds; None for no such limit.

    Raises:
        click.ClickException: nothing was measured that keeps to the limits.
    """
    fast = [i for i in among if target_ms is None or (points[i].p50_ms or 0.0) <= target_ms]
    best = max((points[i].top1 or 0.0 for i in (fast if max_drop is None else among)), default=0.0)
    accurate = [i for i in among if (points[i].top1 or 0.0) >= best - (max_drop or 0.0) - ROUNDING]
    fitting = [i for i in accurate if i in fast]
    if not fitting:
        fastest = min(points[i].p50_ms or 0.0 for i in accurate)
        only = "" if max_drop is None else " of those that are accurate enough"
        raise click.ClickException(f"no setting takes {target_ms:g} ms or less: the fastest{only} takes {fastest:.3g} ms")
    return equally_fast(points, fitting)


def equally_fast(points: Sequence[PointResult], among: Sequence[int]) -> list[int]:
    """Indices of the points that timing can't tell from the fastest one, fewest FLOPs first, then the highest accuracy.

    Those are the points whose interval of images per second overlaps with that of the fastest one.
    """
    fastest = max(among, key=lambda i: points[i].images_per_second or 0.0)
    equal = [i for i in among if points[i].speed_interval[1] >= points[fastest].speed_interval[0]]
    return sorted(equal, key=lambda i: (points[i].flops_per_image or 0, -(points[i].top1 or 0.0)))


def why(points: Sequence[PointResult], equal: Sequence[int]) -> str:
    """A sentence on the points that `recommend` returned, behind the first one."""
    if len(equal) == 1:
        return "No other setting is accurate enough and as fast within timing noise."
    return f"Also accurate enough, and as fast within timing noise: {', '.join(points[i].name for i in equal[1:])}."
