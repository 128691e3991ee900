"""Cascades as points of a measurement: chooses each cascade's two settings, tests its answers, and times it."""

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
from vmoe_tools.bench.planned_points import Point
from vmoe_tools.bench.quality import Quality, count_right

_LEAST_TIMED_BATCHES, _MOST_TIMED_BATCHES = 8, 64
_MOST_TIMED_IMAGES = 512  # 512 images of 224 x 224 pixels take 300 MB as float32


class CascadeAnswers:
    """An observer (see `vmoe_tools.bench.quality.Observe`) that records a point's predictions for all images."""

    def __init__(self) -> None:
        self._parts: list[tuple[Array, Array]] = []

    def __call__(self, logits: Array, routing: object, labels: Array | None) -> None:
        """Record the predictions for a batch."""
        margins = margins_of(logits)
        self._parts.append((np.where(np.isnan(margins), -1, logits.argmax(axis=1)), margins))

    @property
    def classes(self) -> Array:
        """i64[N]: the class with the largest logit; -1 if the logits are not finite."""
        return np.concatenate([classes for classes, _ in self._parts])

    @property
    def margins(self) -> Array:
        """f64[N]: the largest probability minus the second largest; NaN if the logits are not finite."""
        return np.concatenate([margins for _, margins in self._parts])


@dataclass(frozen=True)
class PlannedCascade:
    """A cascade of two points of one engine, with its margins.

    An image is escalated to the second point if, at the first point, its two largest probabilities differ by less than the
    cascade's margin.

    Attributes:
        first, then: indices of the two points.
        margin: the margin to deploy, calibrated on all images.
        fold_margins: two margins for cross-validation. The first is calibrated on the even batches and tested on the odd
            batches. The second is calibrated on the odd batches and tested on the even batches.
    """

    first: int
    then: int
    margin: float
    fold_margins: tuple[float, float]


def plan_cascades(
    points: Sequence[Point], qualities: Sequence[Quality], answers: Sequence[CascadeAnswers], labels: Array | None
) -> list[PlannedCascade]:
    """Plan the cascades of each engine and batch size, and calibrate their margins.

    The second step of a cascade is the most accurate point with the same engine and batch size. Each point with fewer FLOPs
    becomes the first step of one cascade. With labels, a point is skipped if a cheaper point is at least as accurate.
    Without labels, the point with the most FLOPs counts as the most accurate, and its predictions count as correct.

    Args:
        points: the measured points.
        qualities: the quality of each point. A point without FLOPs is in no cascade.
        answers: the predictions of each point for the same images.
        labels: i64[N or more], the classes of the images; None if there are no labels.
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
    """Group the indices of points that can form cascades: points with the same engine and the same batch size.

    Points without a profile, points without FLOPs, points of compared models and points with concurrent calls are left out.
    """
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
    """Read the batches that are used to time cascades, each spec.dtype[size,H,W,C].

    How long a call takes depends on how many of its images are escalated. So several batches are read, evenly spaced among
    the images. All batches stay in memory, so there are at most 64 of them, and fewer if they are large.

    Raises:
        ImageError: the images don't fit the model, or a file can't be read.
    """
    most = min(max(_MOST_TIMED_IMAGES // size, _LEAST_TIMED_BATCHES), _MOST_TIMED_BATCHES)
    count = len(source) // size
    return [source.batch(index * size, size, spec) for index in range(0, count, max(1, -(-count // most)))]


class CascadePoint:
    """A planned cascade that is tested and timed.

    Attributes:
        point: the first step.
        then: the second step.
        images: images per call.
    """

    def __init__(self, plan: PlannedCascade, points: Sequence[Point], timed: Sequence[Array]) -> None:
        """Prepare the cascade.

        Args:
            plan: the cascade.
            points: the points that the plan's indices refer to.
            timed: batches for timing the cascade. Their size is the first step's batch size.
        """
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
        """Run the next batch, and count its results.

        The margin for an even batch was calibrated on the odd batches, and the margin for an odd batch on the even batches.

        Args:
            batch: dtype[N,H,W,C], of the first step's batch size. The batches must be added in their original order.
            labels: i64[N]; None if there are no labels.
        """
        fold = self._assessed % 2
        logits, escalated = replace(self._cascade, margin=self.plan.fold_margins[1 - fold]).answers(batch)
        if labels is not None:
            self._right = (self._right or 0) + count_right(logits, labels)
        self._escalated += int(np.count_nonzero(escalated))
        self._assessed += 1

    def quality(self, first: Quality, then: Quality) -> tuple[Quality, float]:
        """Return the quality over the added batches, and the share of images that were escalated.

        Args:
            first, then: the quality of the first step alone and of the second step alone.
        """
        images = self._assessed * self.images
        share = self._escalated / images
        assert first.flops_per_image is not None and then.flops_per_image is not None
        flops = round(first.flops_per_image + share * then.flops_per_image)
        top1 = None if self._right is None else self._right / images
        return Quality(images, top1=top1, flops_per_image=flops), share

    def __call__(self) -> None:
        """Run the next timing batch."""
        _, escalated = self._cascade.answers(next(self._batches))
        self._counts.append(int(np.count_nonzero(escalated)))

    def speed(self, seconds: Sequence[float]) -> Speed:
        """Return the speed, computed from the times of the last calls.

        Calls escalate different numbers of images. So the throughput is the batch size divided by the mean call time, not by
        the median call time. To suppress outliers, each call time is first replaced by a median. This is the median over all
        calls that escalated the same number of images.

        Args:
            seconds: duration of each call; at least one.
        """
        counts = np.array(self._counts[-len(seconds) :])
        taken = np.asarray(seconds, np.float64)
        mean = sum(np.median(taken[counts == count]) * np.mean(counts == count) for count in np.unique(counts))
        return replace(summarize(seconds, self.images), images_per_second=float(self.images / mean))
