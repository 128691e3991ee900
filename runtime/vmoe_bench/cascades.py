"""Two-step inference as points of a measurement: which settings are put together, what they answer, how long they take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Any

import numpy as np

from vmoe_bench.measurement import Speed, summarize
from vmoe_bench.points import Point
from vmoe_bench.quality import Quality, count_right
from vmoe_runtime.cascade import margin_of_gains, margins_of
from vmoe_runtime.image_source import ImageSource

Array = np.ndarray[Any, np.dtype[Any]]

_MOST_TIMED_BATCHES = 64


class Answers:
    """What a point answers, image by image: an observer of `vmoe_bench.quality.assess`."""

    def __init__(self) -> None:
        self._parts: list[tuple[Array, Array]] = []

    def __call__(self, logits: Array, routing: object, labels: Array | None) -> None:
        """Takes the answers of a batch."""
        self._parts.append((logits.argmax(axis=1), margins_of(logits)))

    @property
    def classes(self) -> Array:
        """i64[N], of the largest logit."""
        return np.concatenate([classes for classes, _ in self._parts])

    @property
    def margins(self) -> Array:
        """f64[N], differences of the two largest probabilities."""
        return np.concatenate([margins for _, margins in self._parts])


@dataclass(frozen=True)
class PlannedCascade:
    """Two points of one engine, and how sure the first must be.

    Attributes:
        first, then: places among the points.
        margin: calibrated on all images; what to deploy.
        fold_margins: calibrated on every other batch, from the first one on and from the second one on; each is for the
            batches that it has not seen.
    """

    first: int
    then: int
    margin: float
    fold_margins: tuple[float, float]


def plan_cascades(
    points: Sequence[Point], qualities: Sequence[Quality], answers: Sequence[Answers], labels: Array | None
) -> list[PlannedCascade]:
    """For each engine and batch size, its most accurate point as the second step after every point that may pay.

    Those are the ones with fewer FLOPs, and with labels those among them to which none of fewer or as many FLOPs is as
    accurate. Without labels the point of the most FLOPs counts as the most accurate, and its answers as right.

    Args:
        points: what was measured.
        qualities: of each point; those without FLOPs are left out.
        answers: of each point, to the same images.
        labels: i64[N or more], what the images show; None where it isn't known.
    """
    planned = []
    for places in _alike(points, qualities):
        then = max(places, key=lambda place: _worth(qualities[place]))
        for first in _worth_a_try(places, then, qualities):
            truth = answers[then].classes if labels is None else labels[: len(answers[then].classes)]
            gain = (answers[then].classes == truth).astype(int) - (answers[first].classes == truth)
            margins, batch = answers[first].margins, points[first].batch_size
            folds = [np.arange(len(gain)) // batch % 2 == fold for fold in (0, 1)]
            half = [margin_of_gains(margins[fold], gain[fold]) for fold in folds]
            planned.append(PlannedCascade(first, then, margin_of_gains(margins, gain), (half[0], half[1])))
    return planned


def _alike(points: Sequence[Point], qualities: Sequence[Quality]) -> list[list[int]]:
    """The places of points that can be put together: of one engine that runs any profile, at one batch size."""
    groups: dict[tuple[int, int], list[int]] = {}
    for place, (point, quality) in enumerate(zip(points, qualities, strict=True)):
        if point.profile is None or point.loaded.compared or point.concurrency > 1:
            continue
        if quality.flops_per_image is not None:
            groups.setdefault((id(point.loaded), point.batch_size), []).append(place)
    return list(groups.values())


def _worth(quality: Quality) -> tuple[float, int]:
    flops = quality.flops_per_image or 0
    return (-1.0, flops) if quality.top1 is None else (quality.top1, -flops)


def _worth_a_try(places: Sequence[int], then: int, qualities: Sequence[Quality]) -> list[int]:
    def flops(place: int) -> int:
        return qualities[place].flops_per_image or 0

    cheaper = sorted((place for place in places if flops(place) < flops(then)), key=flops)
    chosen: list[int] = []
    best = -1.0
    for place in cheaper:
        top1 = qualities[place].top1
        if top1 is None or top1 > best:
            chosen.append(place)
            best = best if top1 is None else top1
    return chosen


class CascadePoint:
    """A planned cascade that answers images and is timed."""

    def __init__(self, plan: PlannedCascade, points: Sequence[Point], source: ImageSource) -> None:
        """Prepares the images that are timed: evenly spaced batches, as calls differ by how many images are sent on."""
        self.plan = plan
        self.first, self.then = points[plan.first], points[plan.then]
        engine, size = self.first.engine, self.first.batch_size
        assert self.first.profile is not None and self.then.profile is not None
        self._cascade = engine.cascade(first=self.first.profile.name, then=self.then.profile.name, margin=plan.margin)
        self._source = source
        count = len(source) // size
        step = max(1, -(-count // _MOST_TIMED_BATCHES))
        batches = [batch for batch, _ in islice(source.whole_batches(size, engine.manifest.input), 0, None, step)]
        self._batches: Iterator[Array] = cycle(batches)
        self._sent: list[int] = []

    def assess(self, first: Quality, then: Quality, after_batch: Callable[[int], None]) -> tuple[Quality, float]:
        """Answers all images, each by the margin that was calibrated without it.

        Args:
            first, then: qualities of the two points.
            after_batch: called after each batch with its number of images.

        Returns:
            What is left of the model, and the share of images that were sent on.
        """
        right = images = sent = 0
        batches = self._source.whole_batches(self.first.batch_size, self.first.engine.manifest.input)
        for index, (batch, labels) in enumerate(batches):
            cascade = replace(self._cascade, margin=self.plan.fold_margins[1 - index % 2])
            logits, sent_on = cascade.answers(batch)
            right += 0 if labels is None else count_right(logits, labels)
            sent += int(np.count_nonzero(sent_on))
            images += len(batch)
            after_batch(len(batch))
        share = sent / images
        assert first.flops_per_image is not None and then.flops_per_image is not None
        flops = round(first.flops_per_image + share * then.flops_per_image)
        return Quality(None, None if self._source.labels is None else right / images, images, flops, None), share

    @property
    def images(self) -> int:
        """Images per call."""
        return self.first.batch_size

    def __call__(self) -> None:
        """Answers the next batch."""
        _, sent = self._cascade.answers(next(self._batches))
        self._sent.append(int(np.count_nonzero(sent)))

    def speed(self, seconds: Sequence[float]) -> Speed:
        """The speed behind the times of the last calls.

        Throughput is that of the mean call, as calls differ by how many images are sent on: the mean over the medians of
        those that sent on as many, which a call that was held up doesn't move.

        Args:
            seconds: of each call; at least one.
        """
        counts = np.array(self._sent[-len(seconds) :])
        taken = np.asarray(seconds, np.float64)
        mean = sum(np.median(taken[counts == count]) * np.mean(counts == count) for count in np.unique(counts))
        size = self.first.batch_size
        return replace(summarize(seconds, size), images_per_second=float(size / mean))
