"""The search of `vmoe bench --tune`.

It looks for the setting and the cascade with the fewest FLOPs that lose no more correct predictions than allowed.

Settings are points of a grid that has one axis for each setting of the model. Each axis begins with the value of the
full setting. The search starts at the full setting, and then repeats two steps:

1. Select one of the settings that were already tried, but not yet selected. Prefer settings that lose few enough
   correct predictions, and take the cheapest of them. If none is left, take the most accurate one on the Pareto front.
2. Try the neighbours of the selected setting on the grid.

The search depends only on predictions and FLOPs, not on timing, so its result is always the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vmoe_measure.cascade import margin_of_gains
from vmoe_measure.flops import ModelShape
from vmoe_measure.image_source import ImageSource
from vmoe_runtime.bundle.manifest import Manifest
from vmoe_runtime.errors import RoutingError
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing import Array
from vmoe_runtime.settings import MERGE, Setting
from vmoe_tools.bench.cascades import CascadeAnswers
from vmoe_tools.bench.planned_points import Point
from vmoe_tools.bench.quality import Assessment

Place = tuple[int, ...]
"""A point of the grid: an index on each axis, 0 for the value of the full setting."""

MOST_TRIALS = 100
_FULL_RATIO = 1.05  # capacity ratio with which the official models were trained
_FULL_K = 2
_RATIOS = 12  # number of ratios on the axis; each is smaller than the previous one by a factor of sqrt(2)
_FIRST_PART = 8  # after 1/8 of the images, stop a setting if an equally cheap or cheaper one is clearly better
_FAR_BELOW = 0.1  # don't try the neighbours of a setting whose accuracy is further than this below the full setting's
_MOST_CALIBRATIONS = 4
_DOUBT = 0.05  # accepted probability of losing more correct predictions than allowed

AXES: Mapping[str, Callable[[Profile, ModelShape], Sequence[Any]]] = {
    "capacity": lambda full, _: [float(f"{(full.capacity_ratio or 0) / math.sqrt(2) ** n:.2g}") for n in range(1, _RATIOS)],
    "k": lambda full, _: range((full.k or 1) - 1, 0, -1),
    "pool": lambda full, _: () if full.pool else (True,),
    "max_experts": lambda full, _: [
        max(1, (full.max_experts or 1) >> n) for n in range(1, (full.max_experts or 1).bit_length())
    ],
    "merge": lambda _, shape: [max(1, shape.tokens // shape.num_layers // 4) * n for n in range(1, 7)],
}
"""The values on the axis of each setting, beginning with the one nearest to that of the full setting."""


def chance_of_at_most(lost: int, images: int, share: float) -> float:
    """Return the probability that at most `lost` of `images` answers are lost.

    Each answer is lost with probability `share`. This is the binomial distribution function.

    Examples:
        >>> round(chance_of_at_most(2, 768, 0.01), 3), round(chance_of_at_most(3, 768, 0.01), 3)
        (0.017, 0.052)
    """
    counts = np.arange(lost + 1)
    log_ways = [math.lgamma(images + 1) - math.lgamma(n + 1) - math.lgamma(images - n + 1) for n in range(lost + 1)]
    logs = np.array(log_ways) + counts * math.log(share) + (images - counts) * math.log1p(-share)
    return float(np.exp(logs).sum())


def images_that_show(share: float) -> int:
    """Return how many images are needed to show that at most `share` of the answers are lost, with 95 % confidence.

    This number of images suffices if none of their answers is lost. It is at least 32.
    """
    return max(32, math.ceil(math.log(_DOUBT) / math.log1p(-share))) if 0 < share < 1 else 32


@dataclass(frozen=True)
class Trial:
    """The predictions of a setting for the images of the search.

    Attributes:
        profile: the setting.
        right: bool[N], whether each predicted class equals the label.
        margins: f64[N], the margin of each prediction; see `vmoe_runtime.classes.margins_of`.
        flops: FLOPs per image.
    """

    profile: Profile
    right: Array
    margins: Array
    flops: int


@dataclass(frozen=True)
class TunedCascade:
    """A cascade of two settings, with its calibrated margin and its FLOPs.

    The FLOPs are the mean per image, over both steps together.
    """

    first: Profile
    then: Profile
    margin: float
    flops: float


def full_setting(manifest: Manifest, base: Profile) -> Profile:
    """Return the full setting, which is the reference for all other settings.

    It has the official routing, and the largest capacity ratio and k that occur in the stored profiles, in `base`, and in
    the official training (1.05 and 2).

    Args:
        manifest: the bundle's manifest.
        base: any setting of the bundle.
    """
    rules, used = manifest.rules, [base, *manifest.profiles.values()]
    ratio = max([_FULL_RATIO, *(profile.capacity_ratio or 0.0 for profile in used)])
    k = max([_FULL_K, *(profile.k or 0 for profile in used)])
    highest = {"capacity": min(ratio, rules.num_experts), "k": min(k, min(rules.experts, default=1) // rules.ensemble_size)}
    return rules.profile_of(Setting.of({name: value for name, value in highest.items() if name in rules.settings}))


class Search:
    """A search that tries settings of one engine. All settings are tried on the same images."""

    def __init__(
        self,
        point: Point,
        shape: ModelShape,
        source: ImageSource,
        max_drop: float,
        advance: Callable[[float, int], None] = lambda settings, images: None,
        *,
        unmerged: bool = False,
    ) -> None:
        """Try the full setting.

        Args:
            point: a point with the full setting and the batch size of the search.
            shape: sizes of the model.
            source: the images, with labels.
            max_drop: share of the correct predictions that may be lost, 0 to 1.
            advance: called after each batch with two numbers: the share of the current setting's images that this batch
                contains, and the number of images in the batch.
            unmerged: whether to leave out settings that merge tokens.
        """
        assert point.profile is not None and source.labels is not None
        own = [name for name in point.engine.manifest.rules.settings if name in AXES and not (unmerged and name == MERGE)]
        self._axes = {name: AXES[name](point.profile, shape) for name in own}
        self._point, self._source, self._max_drop, self._advance = point, source, max_drop, advance
        self._num_batches = len(source) // point.batch_size
        self._labels = source.labels[: self._num_batches * point.batch_size]
        self._trials: dict[Profile, Trial | None] = {}
        full = self._try(point.profile)
        assert full is not None
        self._full = full

    @property
    def tried(self) -> int:
        """Number of settings that were tried."""
        return len(self._trials)

    def run(self) -> tuple[Profile, TunedCascade | None]:
        """Search, and combine the settings that were tried into cascades.

        Returns:
            Two results:

            - The setting with the fewest FLOPs that loses few enough correct predictions. It may be the full setting.
            - The cascade with the fewest FLOPs that loses few enough correct predictions. None if no cascade has fewer FLOPs
              than the returned setting.

        Raises:
            VmoeError: the images don't fit the model, or a backend failed.
        """
        waiting: dict[Place, Trial] = {(0,) * len(self._axes): self._full}
        seen = set(waiting)
        while (place := self._next(waiting)) is not None:
            del waiting[place]
            for neighbour in self._neighbours(place):
                if neighbour in seen or len(self._trials) >= MOST_TRIALS:
                    continue
                seen.add(neighbour)
                trial = self._try_place(neighbour)
                if trial is not None and trial not in waiting.values():
                    waiting[neighbour] = trial
        tried = [trial for trial in self._trials.values() if trial is not None]
        single = min((trial for trial in tried if self._is_enough(trial.right)), key=lambda trial: trial.flops)
        cascades = [found for found in self._cascades() if found.flops < single.flops]
        return single.profile, min(cascades, key=lambda found: found.flops, default=None)

    def _is_enough(self, right: Array) -> bool:
        """Return whether at most the allowed share of correct predictions is lost, with 95 % confidence.

        An image that only the cheaper setting classifies correctly does not offset a lost prediction. When many settings are
        tried, most such gains are due to chance.
        """
        lost = int(np.count_nonzero(self._full.right & ~right))
        if not 0 < self._max_drop < 1:
            return self._max_drop >= 1 or lost == 0
        return chance_of_at_most(lost, len(right), self._max_drop) <= _DOUBT

    def _front(self) -> list[Trial]:
        """Return the Pareto front, cheapest first.

        A trial is on the front if it is more accurate than all other trials that have equal or fewer FLOPs.
        """
        front: list[Trial] = []
        for trial in sorted(filter(None, self._trials.values()), key=lambda one: (one.flops, -one.right.sum())):
            if not front or trial.right.sum() > front[-1].right.sum():
                front.append(trial)
        return front

    def _next(self, waiting: Mapping[Place, Trial]) -> Place | None:
        enough = [place for place, trial in waiting.items() if self._is_enough(trial.right)]
        if enough:
            return min(enough, key=lambda place: waiting[place].flops)
        least = self._full.right.mean() - _FAR_BELOW
        front = {id(trial) for trial in self._front() if trial.right.mean() >= least}
        others = [place for place, trial in waiting.items() if id(trial) in front]
        return max(others, key=lambda place: waiting[place].right.sum(), default=None)

    def _neighbours(self, place: Place) -> Iterator[Place]:
        for axis, values in enumerate(self._axes.values()):
            for index in (place[axis] + 1, place[axis] - 1):
                if 0 <= index <= len(values):
                    yield (*place[:axis], index, *place[axis + 1 :])

    def _try_place(self, place: Place) -> Trial | None:
        chosen: Any = {name: values[i - 1] for (name, values), i in zip(self._axes.items(), place, strict=True) if i}
        try:
            return self._try(self._point.engine.setting(self._full.profile, **chosen))
        except RoutingError:  # these values can't be combined
            return None

    def _try(self, profile: Profile | None) -> Trial | None:
        """Return the trial of a setting; None if the trial was stopped early."""
        assert profile is not None
        key = profile.effect
        if key in self._trials:
            return self._trials[key]
        self._trials[key] = None
        answers = CascadeAnswers()
        assessment = Assessment(replace(self._point, profile=profile), [answers])
        batches = self._source.whole_batches(self._point.batch_size, self._point.engine.manifest.input)
        for count, (batch, labels) in enumerate(batches, 1):
            assessment.add(batch, labels)
            self._advance(1 / self._num_batches, len(batch))
            if count >= -(-self._num_batches // _FIRST_PART) and self._is_worse(assessment, answers):
                self._advance(1 - count / self._num_batches, 0)
                return None
        quality = assessment.quality()
        assert quality is not None and quality.flops_per_image is not None
        trial = Trial(profile, answers.classes == self._labels, answers.margins, quality.flops_per_image)
        self._trials[key] = trial
        return trial

    def _is_worse(self, assessment: Assessment, answers: CascadeAnswers) -> bool:
        """Return whether the setting being tried is clearly worse than another one with equal or fewer FLOPs.

        The two settings are compared on the images that were run so far. The difference in the number of correct predictions
        must exceed two of its standard errors.
        """
        quality, classes = assessment.quality(), answers.classes
        assert quality is not None and quality.flops_per_image is not None
        right = classes == self._labels[: len(classes)]
        for trial in filter(None, self._trials.values()):
            differences = trial.right[: len(right)].astype(int) - right
            cheaper = trial.flops <= quality.flops_per_image
            if cheaper and differences.sum() > 2 * math.sqrt(np.count_nonzero(differences)):
                return True
        return False

    def _cascades(self) -> Iterator[TunedCascade]:
        front = [*self._front(), self._full]
        allowed = math.floor(self._max_drop * len(self._labels) + 1e-9)
        calibrations = np.unique(np.linspace(0, allowed, _MOST_CALIBRATIONS).astype(int))
        for then in front:
            for first in front:
                gain = then.right.astype(int) - first.right
                for lost in calibrations if first.flops < then.flops else ():
                    margin = margin_of_gains(first.margins, gain, int(lost))
                    escalated = ~(first.margins >= margin)
                    if self._is_enough(np.where(escalated, then.right, first.right)):
                        flops = first.flops + escalated.mean() * then.flops
                        yield TunedCascade(first.profile, then.profile, margin, float(flops))
