"""Two-step inference as points of a measurement: which settings are put together, what they answer, how long they take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle

import numpy as np

from vmoe_measure.cascade import margin_of_gains
from vmoe_measure.image_source import ImageSource
from vmoe_measure.timing import Speed, summarize
from vmoe_runtime.bundle.manifest import InputSpec
from vmoe_runtime.classes import margins_of
from vmoe_runtime.routing import Array
from vmoe_tools.bench.points import Point
from vmoe_tools.bench.quality import Quality, count_right

_LEAST_TIMED_BATCHES, _MOST_TIMED_BATCHES = 8, 64
_MOST_TIMED_IMAGES = 512  # of 224 x 224 pixels they are 300 MB


class CascadeAnswers:
    """What a point answers, image by image: a `vmoe_tools.bench.quality.Observe`."""

    def __init__(self) -> None:
        self._parts: list[tuple[Array, Array]] = []

    def __call__(self, logits: Array, routing: object, labels: Array | None) -> None:
        """Takes the answers of a batch."""
        margins = margins_of(logits)
        self._parts.append((np.where(np.isnan(margins), -1, logits.argmax(axis=1)), margins))

    @property
    def classes(self) -> Array:
        """i64[N], of the largest logit; -1 where the logits are no finite numbers."""
        return np.concatenate([classes for classes, _ in self._parts])

    @property
    def margins(self) -> Array:
        """f64[N], differences of the two largest probabilities."""
        return np.concatenate([margins for _, margins in self._parts])


@dataclass(frozen=True)
class PlannedCascade:
    """Two points of one engine, and how sure the first must be.

    Attributes:
        first, then: indices of the points.
        margin: calibrated on all images; what to deploy.
        fold_margins: calibrated on every other batch, from the first one on and from the second one on; each is for the
            batches that it has not seen.
    """

    first: int
    then: int
    margin: float
    fold_margins: tuple[float, float]


def plan_cascades(
    points: Sequence[Point], qualities: Sequence[Quality], answers: Sequence[CascadeAnswers], labels: Array | None
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
    for indices in _alike(points, qualities):
        then = max(indices, key=lambda index: _worth(qualities[index]))
        for first in _worth_a_try(indices, then, qualities):
            truth = answers[then].classes if labels is None else labels[: len(answers[then].classes)]
            gain = (answers[then].classes == truth).astype(int) - (answers[first].classes == truth)
            margins, batch = answers[first].margins, points[first].batch_size
            folds = [np.arange(len(gain)) // batch % 2 == fold for fold in (0, 1)]
            half = [margin_of_gains(margins[fold], gain[fold]) for fold in folds]
            planned.append(PlannedCascade(first, then, margin_of_gains(margins, gain), (half[0], half[1])))
    return planned


def _alike(points: Sequence[Point], qualities: Sequence[Quality]) -> list[list[int]]:
    """The indices of points that can be put together: of one engine that runs any profile, at one batch size."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, (point, quality) in enumerate(zip(points, qualities, strict=True)):
        alone = point.profile is None or point.loaded.compared or point.concurrency > 1
        if not alone and quality.flops_per_image is not None:
            groups.setdefault((id(point.loaded), point.batch_size), []).append(index)
    return list(groups.values())


def _worth(quality: Quality) -> tuple[float, int]:
    flops = quality.flops_per_image or 0
    return (-1.0, flops) if quality.top1 is None else (quality.top1, -flops)


def _worth_a_try(indices: Sequence[int], then: int, qualities: Sequence[Quality]) -> list[int]:
    def flops(index: int) -> int:
        return qualities[index].flops_per_image or 0

    cheaper = sorted((index for index in indices if flops(index) < flops(then)), key=flops)
    top1 = [qualities[index].top1 or 0.0 for index in cheaper]
    return [index for n, index in enumerate(cheaper) if qualities[index].top1 is None or top1[n] > max(top1[:n], default=-1)]


def timed_batches(source: ImageSource, size: int, spec: InputSpec) -> list[Array]:
    """The batches that cascades are timed on: spec.dtype[size,H,W,C], evenly spaced, as calls differ by how many images are
    escalated.

    They are all in memory, so there are 64 of them at most, and of large batches fewer.

    Raises:
        ImageError: the images don't fit the model, or a file can't be read.
    """
    most = min(max(_MOST_TIMED_IMAGES // size, _LEAST_TIMED_BATCHES), _MOST_TIMED_BATCHES)
    count = len(source) // size
    return [source.batch(index * size, size, spec) for index in range(0, count, max(1, -(-count // most)))]


class CascadePoint:
    """A planned cascade that answers images and is timed.

    Attributes:
        point: the first step.
        then: the second one.
        images: per call.
    """

    def __init__(self, plan: PlannedCascade, points: Sequence[Point], timed: Sequence[Array]) -> None:
        """Takes the batches that it is timed on, of the first step's size."""
        self.plan = plan
        self.point, self.then = points[plan.first], points[plan.then]
        self.images = self.point.batch_size
        engine = self.point.engine
        assert self.point.profile is not None and self.then.profile is not None
        self._cascade = engine.cascade(first=self.point.profile.name, then=self.then.profile.name, margin=plan.margin)
        self._batches = cycle(timed)
        self._counts: list[int] = []
        self._right: int | None = None
        self._assessed = self._escalated = 0

    def add(self, batch: Array, labels: Array | None) -> None:
        """Answers the next of all whole batches, by the margin that was calibrated without it, and counts.

        Args:
            batch: dtype[N,H,W,C] of the first step's size.
            labels: i64[N], or None where they are not known.
        """
        fold = self._assessed % 2
        logits, escalated = replace(self._cascade, margin=self.plan.fold_margins[1 - fold]).answers(batch)
        if labels is not None:
            self._right = (self._right or 0) + count_right(logits, labels)
        self._escalated += int(np.count_nonzero(escalated))
        self._assessed += 1

    def quality(self, first: Quality, then: Quality) -> tuple[Quality, float]:
        """What is left of the model, and the share of images that were escalated, over the batches that were added.

        Args:
            first, then: qualities of the two points.
        """
        images = self._assessed * self.images
        share = self._escalated / images
        assert first.flops_per_image is not None and then.flops_per_image is not None
        flops = round(first.flops_per_image + share * then.flops_per_image)
        top1 = None if self._right is None else self._right / images
        return Quality(images, top1=top1, flops_per_image=flops), share

    def __call__(self) -> None:
        """Answers the next batch."""
        _, sent = self._cascade.answers(next(self._batches))
        self._counts.append(int(np.count_nonzero(sent)))

    def speed(self, seconds: Sequence[float]) -> Speed:
        """The speed behind the times of the last calls.

        Throughput is that of the mean call, as calls differ by how many images are escalated: the mean over the medians of
        those that escalated as many, which a call that was held up doesn't move.

        Args:
            seconds: of each call; at least one.
        """
        counts = np.array(self._counts[-len(seconds) :])
        taken = np.asarray(seconds, np.float64)
        mean = sum(np.median(taken[counts == count]) * np.mean(counts == count) for count in np.unique(counts))
        return replace(summarize(seconds, self.images), images_per_second=float(self.images / mean))
