"""One whole measurement: what each point answers first, then how fast it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from vmoe_bench.cascades import Answers, CascadePoint, plan_cascades
from vmoe_bench.measurement import summarize, time_interleaved
from vmoe_bench.points import Point
from vmoe_bench.quality import Observe, Quality, assess, images_assessed
from vmoe_bench.report import PointReport, report_cascade, report_point
from vmoe_runtime.image_source import ImageSource

if TYPE_CHECKING:
    from vmoe_bench.display import Progress


@dataclass(frozen=True)
class Measured:
    """What came out.

    Attributes:
        reports: of the points in their order; of the first ones where the measurement was interrupted.
        cascades: of two steps each, where they were asked for; none where the measurement was interrupted before.
        interrupted: whether it was, by Ctrl-C.
    """

    reports: list[PointReport]
    cascades: list[PointReport]
    interrupted: bool


def measure(
    points: Sequence[Point],
    source: ImageSource,
    duration: float,
    threads: int | None,
    progress: Progress,
    observers: Sequence[Observe] | None = None,
    *,
    cascades: bool = False,
) -> Measured:
    """Measures all points.

    Args:
        points: what to measure.
        source: the images of the first part; the first of them are those that are timed.
        duration: seconds for timing all points together.
        threads: per call, as asked for.
        progress: where it shows how far it is.
        observers: for each point, who is shown its answers; None for nobody.
        cascades: measure pairs of the points, too; see `vmoe_bench.cascades.plan_cascades`. They need logits, and no
            observers.

    Raises:
        VmoeError: the images don't fit, or a backend failed.
    """
    spec = points[0].engine.manifest.input
    batches = {size: source.first_batch(size, spec) for size in {point.batch_size for point in points}}
    answers = [Answers() for _ in points] if cascades else []
    observers = answers or observers
    qualities: list[Quality] = []
    pairs: list[CascadePoint] = []
    assessed: list[tuple[Quality, float]] = []
    seconds: list[list[float]] = [[] for _ in points]
    interrupted = False
    try:
        with progress.step("accuracy and routing", sum(images_assessed(point, source) for point in points)) as advance:
            for index, point in enumerate(points):
                more = {} if observers is None else {"observe": observers[index]}
                qualities.append(assess(point, source, lambda images: advance(images, images), **more))
        if cascades:
            plans = plan_cascades(points, qualities, answers, source.labels)
            pairs = [CascadePoint(plan, points, source) for plan in plans]
            with progress.step("two steps", sum(images_assessed(pair.first, source) for pair in pairs)) as advance:
                for pair in pairs:
                    first, then = qualities[pair.plan.first], qualities[pair.plan.then]
                    assessed.append(pair.assess(first, then, lambda images: advance(images, images)))
        seconds += [[] for _ in pairs]
        calls: list[Callable[[], object]] = [partial(point.logits, batches[point.batch_size]) for point in points]
        calls += [pair.call for pair in pairs]
        per_round = sum(point.batch_size for point in points) + sum(pair.first.batch_size for pair in pairs)
        with progress.step("speed", duration) as advance:
            time_interleaved(calls, duration, after_round=lambda taken: advance(taken, per_round), into=seconds)
    except KeyboardInterrupt:
        interrupted = True
    speeds = [summarize(taken, point.batch_size) if taken else None for point, taken in zip(points, seconds, strict=False)]
    reports = [
        report_point(point, threads, speed, quality)
        for point, speed, quality in zip(points, speeds, qualities, strict=False)
    ]
    of_pairs = [
        report_cascade(pair, threads, pair.speed(taken) if taken else None, *quality)
        for pair, taken, quality in zip(pairs, seconds[len(points) :], assessed, strict=False)
    ]
    return Measured(reports, of_pairs, interrupted)
