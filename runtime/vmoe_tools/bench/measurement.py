"""A measurement, which measures the quality of all points and then their speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Barrier

from vmoe_measure.image_source import ImageSource
from vmoe_measure.timing import Speed, summarize, time_interleaved
from vmoe_runtime.bundle.manifest import InputSpec
from vmoe_runtime.errors import ImageError
from vmoe_runtime.routing import Array
from vmoe_tools.bench.cascades import CascadeAnswers, CascadePoint, PlannedCascade, plan_cascades, timed_batches
from vmoe_tools.bench.planned_points import Point
from vmoe_tools.bench.point_result import PointResult, cascade_result, mark, point_result
from vmoe_tools.bench.quality import Assessment, Observe, Quality
from vmoe_tools.terminal import Progress

CALLS_EACH = 4


@dataclass
class Measured:
    """The results of a measurement.

    Attributes:
        points: the results of the points, in order, with the Pareto front marked. If the measurement was interrupted, they
            cover only the points and images that were measured before the interruption.
        cascades: the results of cascades. Empty if none were requested, or if the measurement was interrupted before the
            cascades.
        interrupt: the interruption, such as Ctrl-C; None if the measurement is complete.
    """

    points: list[PointResult] = field(default_factory=list)
    cascades: list[PointResult] = field(default_factory=list)
    interrupt: KeyboardInterrupt | None = None


def measure(
    points: Sequence[Point],
    source: ImageSource,
    duration: float,
    progress: Progress,
    observers: Sequence[Observe] = (),
    *,
    cascades: bool | Sequence[PlannedCascade] = False,
) -> Measured:
    """Measure all points.

    Args:
        points: the points to measure.
        source: the images for measuring quality. Their first batch is also used for timing.
        duration: time in seconds for timing all points together.
        progress: shows the progress.
        observers: for each point, a function that receives the results of every batch; empty for none.
        cascades: the cascades to measure in addition to the points. True lets `vmoe_tools.bench.cascades.plan_cascades`
            plan them; False means none.

    Raises:
        VmoeError: the images don't fit a model, or a backend failed.
    """
    batches = _first_batches(points, source)
    answers = [CascadeAnswers() for _ in points] if cascades else []
    assessments = [Assessment(point, [*answers[i : i + 1], *observers[i : i + 1]]) for i, point in enumerate(points)]
    pairs: list[CascadePoint] = []
    qualities: list[tuple[Quality, float]] = []
    seconds: list[list[float]] = [[] for _ in points]
    measured = Measured()
    with ExitStack() as closing:
        calls: list[OneCall | ConcurrentCalls | CascadePoint] = [
            _call_of(point, batches[point.takes], closing) for point in points
        ]
        try:
            _assess(assessments, source, progress, "accuracy and routing")
            if cascades:
                known = [quality for one in assessments if (quality := one.quality()) is not None]
                plans = plan_cascades(points, known, answers, source.labels) if cascades is True else cascades
                pairs += _pairs(points, source, plans)
                _assess(pairs, source, progress, "cascades")
                qualities += [pair.quality(known[pair.plan.first], known[pair.plan.then]) for pair in pairs]
                calls += pairs
                seconds += [[] for _ in pairs]
            images = sum(call.images for call in calls)
            settle = _calls_of_engines([*points, *(pair.point for pair in pairs)], batches)
            with progress.step("speed", 1) as advance:
                time_interleaved(
                    calls, duration, after_round=lambda share: advance(share, images), into=seconds, settle=settle
                )
        except KeyboardInterrupt as interrupt:
            measured.interrupt = interrupt
    speeds = [call.speed(taken) if taken else None for call, taken in zip(calls, seconds, strict=True)]
    found = [
        point_result(point, speed, quality)
        for point, speed, one in zip(points, speeds, assessments, strict=False)
        if (quality := one.quality()) is not None
    ]
    of_pairs = [
        cascade_result(pair, speed, *quality)
        for pair, speed, quality in zip(pairs, speeds[len(points) :], qualities, strict=False)
    ]
    marked = mark([*found, *of_pairs], source.labels)
    measured.points, measured.cascades = marked[: len(found)], marked[len(found) :]
    return measured


@dataclass(frozen=True)
class OneCall:
    """A function call that processes `images` images."""

    call: Callable[[], object]
    images: int

    def __call__(self) -> object:
        """Make the call."""
        return self.call()

    def speed(self, seconds: Sequence[float]) -> Speed:
        """Return the speed, computed from the call times."""
        return summarize(seconds, self.images)


class ConcurrentCalls:
    """A round of calls: several threads start at the same time, and each makes `CALLS_EACH` calls in sequence.

    Attributes:
        images: number of images in a round.
    """

    def __init__(self, call: Callable[[], object], callers: int, images_per_call: int) -> None:
        """Start the threads.

        Args:
            call: the thread-safe function to call.
            callers: number of threads that call concurrently.
            images_per_call: batch size.
        """
        self._call, self._callers, self._images_per_call = call, callers, images_per_call
        self.images = callers * CALLS_EACH * images_per_call
        self._threads = ThreadPoolExecutor(callers)
        self._begin = Barrier(callers)
        self._seconds: list[float] = []

    def __call__(self) -> None:
        """Make all calls of a round. If a call fails, raise its exception."""
        try:
            rounds = [self._threads.submit(self._one_caller) for _ in range(self._callers)]
            for calls in rounds:
                self._seconds += calls.result()
        except BaseException:
            # After an error, some threads may never start. So wake the threads that wait for all threads to start.
            self._begin.abort()
            raise

    def speed(self, seconds: Sequence[float]) -> Speed:
        """Return the speed, computed from the times of the last rounds.

        The throughput is the number of images in a round divided by the median round time. The percentiles describe single
        calls.

        Args:
            seconds: duration of each round; at least one.
        """
        calls = self._seconds[-self._callers * CALLS_EACH * len(seconds) :]
        whole, single = summarize(seconds, self.images), summarize(calls, self._images_per_call)
        return replace(single, images_per_second=whole.images_per_second)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()

    def _one_caller(self) -> list[float]:
        seconds = []
        self._begin.wait()
        for _ in range(CALLS_EACH):
            start = time.perf_counter()
            self._call()
            seconds.append(time.perf_counter() - start)
        return seconds


def _first_batches(points: Sequence[Point], source: ImageSource) -> dict[tuple[int, InputSpec], Array]:
    batches: dict[tuple[int, InputSpec], Array] = {}
    for point in points:
        try:
            if point.takes not in batches:
                batches[point.takes] = source.first_batch(*point.takes)
        except ImageError as error:
            raise ImageError(f"{point.loaded.name}: {error}" if point.loaded.compared else str(error)) from None
    return batches


def _call_of(point: Point, batch: Array, closing: ExitStack) -> OneCall | ConcurrentCalls:
    call = partial(point.logits, batch)
    if point.concurrency == 1:
        return OneCall(call, point.batch_size)
    calls = ConcurrentCalls(call, point.concurrency, point.batch_size)
    closing.callback(calls.close)
    return calls


def _calls_of_engines(points: Sequence[Point], batches: Mapping[tuple[int, InputSpec], Array]) -> list[Callable[[], object]]:
    """Return, for each point, a function that makes an untimed call of the point's engine.

    Points of the same engine share the function. The argument `settle` of `time_interleaved` explains when it is called.
    """
    calls = {id(point.loaded): partial(point.logits, batches[point.takes]) for point in points}
    return [calls[id(point.loaded)] for point in points]


def _assess(assessments: Sequence[Assessment | CascadePoint], source: ImageSource, progress: Progress, text: str) -> None:
    """Add all whole batches of the images to each assessment.

    Assessments with the same batch size and input share each batch, so each picture is read only once for all of them.
    After an interruption, their numbers of batches differ by at most one.
    """
    alike: dict[tuple[int, InputSpec], list[Assessment | CascadePoint]] = {}
    for one in assessments:
        alike.setdefault(one.point.takes, []).append(one)
    images = sum(len(source) // size * size * len(sharing) for (size, _), sharing in alike.items())
    with progress.step(text, images) as advance:
        for (size, spec), sharing in alike.items():
            for batch, labels in source.whole_batches(size, spec):
                for one in sharing:
                    one.add(batch, labels)
                    advance(len(batch), len(batch))


def _pairs(points: Sequence[Point], source: ImageSource, plans: Sequence[PlannedCascade]) -> list[CascadePoint]:
    timed = {takes: timed_batches(source, *takes) for takes in {points[plan.first].takes for plan in plans}}
    return [CascadePoint(plan, points, timed[points[plan.first].takes]) for plan in plans]
