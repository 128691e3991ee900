"""The results of a measurement, and what is computed from them.

The module contains a record per point, its JSON and CSV, the Pareto front, and the recommended setting.
"""

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
from vmoe_tools.bench.planned_points import Point
from vmoe_tools.bench.quality import Quality

ROUNDING = 1e-9
"""Tolerance for comparing accuracies with limits, which users type as decimals."""


@dataclass(frozen=True)
class PointResult:
    """The measurement of one point.

    The field names are the keys of the JSON and the columns of the CSV. Only `setting` is split: each of its items has its
    own key and column.

    Attributes:
        bundle: name of the bundle.
        precision: precision of the bundle's large matrix products.
        profile: name of the routing setting; None if the model has no settings.
        setting: the value of every setting by its key in the JSON, such as `capacity_ratio`. The value is None if the model
            has no such setting.
        backend: name of the backend.
        batch_size: images per call.
        threads: requested threads per call; None if the runtime chooses.
        images_per_second: throughput: the batch size divided by the median call time. With concurrent calls, it is the
            number of images in a round divided by the median round time. The throughput and all times are None if the
            measurement was interrupted before timing.
        p50_ms, p90_ms, p99_ms: percentiles of the call time in milliseconds.
        p50_low_ms, p50_high_ms: the 95 % confidence interval of p50_ms.
        kept_pairs: share of the (token, choice) pairs that got a slot, 0 to 1; None if there are no pairs.
        top1: accuracy, 0 to 1; None if there are no labels.
        images: number of images on which kept_pairs, top1, flops_per_image and expert_bytes_per_call were measured.
        flops_per_image: FLOPs of matrix products. An expert's products count only the rows that it processed.
        expert_bytes_per_call: mean size in bytes of the expert weight matrices that a call reads.
        pareto: whether the point is on the Pareto front. A point is on it unless another point is better in speed or
            accuracy, and not worse in the other of the two. None if there are no labels.
        chance: accuracy of always predicting the most frequent class of the labels; None if there are no labels.
        concurrency: number of concurrent calls.
        streams: requested number of calls that the backend runs concurrently; None if the backend chooses.
        then: name of a cascade's second setting; None for a single setting.
        margin: margin of a cascade, calibrated on all images; None for a single setting. An image is escalated if the
            difference between its two largest probabilities is below the margin. The accuracy is cross-validated: each
            image is tested with a margin calibrated on other images.
        escalated: share of the images that the cascade escalated; None for a single setting.
        compared: whether the point belongs to another model, loaded for comparison.
        speed_ratio: images_per_second divided by that of the first compared model that ran on the same backend, at the same
            batch size and concurrency. None if there is no such model.
        flops_ratio: flops_per_image divided by that of the same compared model; None if there is no such model.
        agreement, cosine_mean, cosine_p5, cosine_least, same_neighbour: closeness to the most exact bundle, if there are
            several bundles; see `vmoe_tools.bench.closeness.Closeness`.
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
        """The requested capacity ratio C."""
        return self.setting["capacity_ratio"]

    def record(self) -> dict[str, Any]:
        """Return the result as a dictionary with the keys and values of the JSON."""
        columns = {key: value for key, value in asdict(self).items() if key != "setting"}
        before = {key: columns.pop(key) for key in ("bundle", "precision", "profile")}
        return {**before, **self.setting, **columns}

    @property
    def name(self) -> str:
        """The name of the setting, or of the bundle if there is no setting. A compared model shows both names."""
        if self.compared and self.profile is not None:
            return f"{self.bundle} at {self.profile}"
        return self.profile or self.bundle

    @property
    def mega_flops(self) -> float | None:
        """MFLOP per image."""
        return self.flops_per_image / 1e6 if self.flops_per_image else None

    @property
    def ms_per_image(self) -> float | None:
        """Milliseconds per image, the inverse of the throughput."""
        return 1000 / self.images_per_second if self.images_per_second else None

    @property
    def speed_interval(self) -> tuple[float, float]:
        """The lowest and highest images per second, from p50_high_ms and p50_low_ms. Both are 0 if not measured."""
        speed, p50 = self.images_per_second, self.p50_ms
        if not speed or not p50 or not self.p50_low_ms or not self.p50_high_ms:
            return 0.0, 0.0
        return speed * p50 / self.p50_high_ms, speed * p50 / self.p50_low_ms


def point_result(point: Point, speed: Speed | None, quality: Quality) -> PointResult:
    """Combine the speed and the quality of one point."""
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
    """Combine the speed and the quality of a cascade.

    The fields of the result describe the first step. The field `then` names the setting of the second step.
    """
    assert cascade.then.profile is not None
    first = point_result(cascade.point, speed, quality)
    return replace(first, then=cascade.then.profile.name, margin=cascade.plan.margin, escalated=escalated)


def csv_text(points: Sequence[PointResult]) -> str:
    """Return the CSV: a header with the field names, then one line per point. None becomes an empty cell."""
    records, file = [point.record() for point in points], io.StringIO()
    writer = csv.DictWriter(file, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue()


def mark(points: Sequence[PointResult], labels: Array | None = None) -> list[PointResult]:
    """Return the results with `pareto`, `chance` and the ratios set.

    A point's `pareto` stays None if its speed or its accuracy is unknown.

    Args:
        points: the results.
        labels: i64[N], the class of each image; None if there are no labels.
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
        # Count only the images on which the accuracy was measured. Images at the end that don't fill a batch are left out.
        chance = None if labels is None else float(np.bincount(labels[: point.images]).max() / point.images)
        marked.append(replace(point, pareto=on_front(point), chance=chance, speed_ratio=speed, flops_ratio=flops))
    return marked


def comparison(point: PointResult, points: Sequence[PointResult], shown: Callable[[float | None], str]) -> str:
    """Return sentences that compare a point with each compared model; an empty string if there is no compared model.

    Args:
        point: a complete result.
        points: all results.
        shown: formats a share.
    """
    sentences = []
    for other in _compared_with(point, points):
        (low, high), (other_low, other_high) = point.speed_interval, other.speed_interval
        least, most = low / other_high, high / other_low
        faster, slower = least > 1, most < 1
        how = "faster than" if faster else "slower than" if slower else "as fast as"
        noise = "" if faster or slower else " within timing noise"
        speed = _ratio(point.images_per_second, other.images_per_second)
        parts = [f"{ratio_text(speed)} x its speed ({ratio_text(least)} - {ratio_text(most)} by the intervals of both)"]
        if (flops := _ratio(point.flops_per_image, other.flops_per_image)) is not None:
            parts.append(f"{ratio_text(flops)} x its FLOPs")
        if point.top1 is not None and other.top1 is not None:
            parts.append(f"{shown(point.top1)} accuracy, compared with {shown(other.top1)}")
        sentences.append(f"{point.name} is {how} {other.name}{noise}: {', '.join(parts)}.")
    return " ".join(sentences)


def ratio_text(ratio: float | None) -> str:
    """Format a ratio with two decimals, or with two significant digits if it is below 0.1. None becomes a dash."""
    return "-" if ratio is None else f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"


def _compared_with(point: PointResult, points: Sequence[PointResult]) -> list[PointResult]:
    """Return the results of compared models that ran like `point`: same backend, batch size and concurrency."""
    how = point.backend, point.batch_size, point.concurrency
    return [other for other in points if other.compared and (other.backend, other.batch_size, other.concurrency) == how]


def _ratio(value: float | None, other: float | None) -> float | None:
    return value / other if value is not None and other else None


def share_error(share: float, images: int) -> float:
    """Return the standard error of a share measured on `images` images."""
    return math.sqrt(share * (1 - share) / images)


def share_interval(right: int, count: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of the share right / count. It is computed by Wilson's formula.

    Examples:
        >>> [round(end, 3) for end in share_interval(95, 100)]
        [0.888, 0.978]
    """
    z = 1.96
    middle, whole = right + z * z / 2, count + z * z
    half = z * math.sqrt(right * (count - right) / count + z * z / 4)
    return (middle - half) / whole, (middle + half) / whole


def near_chance(points: Sequence[PointResult]) -> str | None:
    """Return a sentence that lists the points whose accuracy is within two standard errors of chance.

    Return None if there is no such point.
    """
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
    """Return the indices of the fastest points within the limits, the recommended one first.

    The returned points are equally fast within timing noise. With `max_drop`, a point's accuracy may be up to `max_drop`
    below that of the most accurate point. Without `max_drop`, a point must be as accurate as the most accurate point within
    `target_ms`.

    Args:
        points: complete results.
        among: indices of the points that may be recommended.
        max_drop: accuracy that may be lost, 0 to 1; None for no such limit.
        target_ms: upper limit of the median call time in milliseconds; None for no such limit.

    Raises:
        click.ClickException: no point is within the limits.
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
    """Return the indices of the points that are as fast as the fastest one within timing noise.

    A point counts as equally fast if its confidence interval of images per second overlaps with that of the fastest point.
    The indices are sorted by FLOPs, fewest first, then by accuracy, highest first.
    """
    fastest = max(among, key=lambda i: points[i].images_per_second or 0.0)
    equal = [i for i in among if points[i].speed_interval[1] >= points[fastest].speed_interval[0]]
    return sorted(equal, key=lambda i: (points[i].flops_per_image or 0, -(points[i].top1 or 0.0)))


def why(points: Sequence[PointResult], equal: Sequence[int]) -> str:
    """Return a sentence that lists all points in `equal` except the first one.

    `equal` is the result of `recommend`.
    """
    if len(equal) == 1:
        return "No other setting is accurate enough and as fast within timing noise."
    return f"Also accurate enough, and as fast within timing noise: {', '.join(points[i].name for i in equal[1:])}."
