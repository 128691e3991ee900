"""One whole measurement: what each point answers first, then how fast it does."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from vmoe_measure.image_source import ImageSource
from vmoe_measure.timing import OneCall, Timed, time_interleaved
from vmoe_tools.bench.cascades import CascadeAnswers, CascadePoint, plan_cascades, timed_batches
from vmoe_tools.bench.concurrency import ConcurrentCalls
from vmoe_tools.bench.points import Point
from vmoe_tools.bench.quality import Assessment, Observe, Quality, batches_of_points, images_assessed
from vmoe_tools.bench.report import PointReport, report_cascade, report_point

if TYPE_CHECKING:
    from vmoe_tools.bench.display import Progress

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Measured:
    """What came out.

    Attributes:
        reports: of the points in their order; where the measurement was interrupted, of those that were asked by then, on
            the images that there was time for.
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
    progress: Progress,
    observers: Sequence[Observe] = (),
    *,
    cascades: bool = False,
) -> Measured:
    """Measures all points.

    Args:
        points: what to measure.
        source: the images of the first part; the first of them are those that are timed.
        duration: seconds for timing all points together.
        progress: where it shows how far it is.
        observers: for each point, who is shown its answers; empty for nobody.
        cascades: measure pairs of the points, too; see `vmoe_tools.bench.cascades.plan_cascades`. They need logits.

    Raises:
        VmoeError: the images don't fit, or a backend failed.
    """
    spec = points[0].engine.manifest.input
    batches = {size: source.first_batch(size, spec) for size in {point.batch_size for point in points}}
    answers = [CascadeAnswers() for _ in points] if cascades else []
    watching: list[list[Observe]] = [
        [*answers[place : place + 1], *observers[place : place + 1]] for place in range(len(points))
    ]
    qualities: list[Quality | None] = []
    pairs: list[CascadePoint] = []
    of_pairs: list[tuple[Quality, float]] = []
    seconds: list[list[float]] = [[] for _ in points]
    interrupted = False
    with ExitStack() as closing:
        calls: list[Timed] = [_call_of(point, batches[point.batch_size], closing) for point in points]
        try:
            _assess_points(points, source, progress, watching, qualities)
            if cascades:
                known = [quality for quality in qualities if quality is not None]
                pairs += _pairs(points, source, known, answers)
                _assess_cascades(pairs, source, progress, known, of_pairs)
                calls += pairs
                seconds += [[] for _ in pairs]
            images = sum(call.images for call in calls)
            with progress.step("speed", duration) as advance:
                time_interleaved(calls, duration, after_round=lambda taken: advance(taken, images), into=seconds)
        except KeyboardInterrupt:
            interrupted = True
    speeds = [call.speed(taken) if taken else None for call, taken in zip(calls, seconds, strict=True)]
    reports = [
        report_point(point, speed, quality)
        for point, speed, quality in zip(points, speeds, qualities, strict=False)
        if quality is not None
    ]
    two_steps = [
        report_cascade(pair, speed, *quality)
        for pair, speed, quality in zip(pairs, speeds[len(points) :], of_pairs, strict=False)
    ]
    return Measured(reports, two_steps, interrupted)


def _call_of(point: Point, batch: Array, closing: ExitStack) -> Timed:
    call = partial(point.logits, batch)
    if point.concurrency == 1:
        return OneCall(call, point.batch_size)
    at_once = ConcurrentCalls(call, point.concurrency, point.batch_size)
    closing.callback(at_once.close)
    return at_once


def _assess_points(
    points: Sequence[Point],
    source: ImageSource,
    progress: Progress,
    observers: Sequence[Sequence[Observe]],
    into: list[Quality | None],
) -> None:
    assessments = [Assessment(point, watching) for point, watching in zip(points, observers, strict=True)]
    with progress.step("accuracy and routing", sum(images_assessed(point, source) for point in points)) as advance:
        try:
            for places, batch, labels in batches_of_points(points, source):
                for place in places:
                    assessments[place].add(batch, labels)
                    advance(len(batch), len(batch))
        finally:
            into += [assessment.quality() for assessment in assessments]


def _pairs(
    points: Sequence[Point], source: ImageSource, qualities: Sequence[Quality], answers: Sequence[CascadeAnswers]
) -> list[CascadePoint]:
    plans = plan_cascades(points, qualities, answers, source.labels)
    firsts = {(points[plan.first].batch_size, points[plan.first].engine.manifest.input) for plan in plans}
    timed = {(size, spec): timed_batches(source, size, spec) for size, spec in firsts}
    return [
        CascadePoint(plan, points, timed[points[plan.first].batch_size, points[plan.first].engine.manifest.input])
        for plan in plans
    ]


def _assess_cascades(
    pairs: Sequence[CascadePoint],
    source: ImageSource,
    progress: Progress,
    qualities: Sequence[Quality],
    into: list[tuple[Quality, float]],
) -> None:
    with progress.step("two steps", sum(images_assessed(pair.first, source) for pair in pairs)) as advance:
        for places, batch, labels in batches_of_points([pair.first for pair in pairs], source):
            for place in places:
                pairs[place].add(batch, labels)
                advance(len(batch), len(batch))
        into += [pair.quality(qualities[pair.plan.first], qualities[pair.plan.then]) for pair in pairs]
