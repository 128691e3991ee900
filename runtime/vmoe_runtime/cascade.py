"""Two-step inference: an answer at a low setting, and another at a high one where the first was not sure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vmoe_runtime.classes import softmax
from vmoe_runtime.errors import ClassifyError, shown
from vmoe_runtime.images import Images
from vmoe_runtime.profiles import Profile

if TYPE_CHECKING:
    from vmoe_runtime.engine import Engine

Array = np.ndarray[Any, np.dtype[Any]]

ESCALATE_ALL = 2.0
"""A margin that no answer has: every image is sent on."""


@dataclass(frozen=True)
class Cascade:
    """An engine that answers in two steps; `Engine.cascade` makes one.

    Attributes:
        engine: what answers, in both steps.
        first: the low setting, at which all images are answered.
        then: the high setting, at which those are answered again of which the first was not sure.
        margin: how sure: the difference of the two largest probabilities, 0 to 1. Images with a smaller one are sent on.
    """

    engine: Engine
    first: Profile
    then: Profile
    margin: float

    def __call__(self, images: Images) -> Array:
        """Logits of a batch of images; see `Engine.__call__`.

        Returns:
            float32[N, classes]: of each image those of its last step.
        """
        return self.answers(images)[0]

    def answers(self, images: Images) -> tuple[Array, Array]:
        """The logits, and which images were sent on.

        Where groups are larger than one image, whole groups are sent on: the least sure images, and as many more as fill the
        last group. The answers of the second step then depend on which images those are.

        Returns:
            float32[N, classes] and bool[N].

        Raises:
            ImageError, BackendError: as for a call of the engine.
        """
        batch = self.engine.batch(images)
        logits = self.engine(batch, self.first.name)
        margins = margins_of(logits)
        multiple = self.engine.manifest.batch_multiple
        count = int(np.count_nonzero(~(margins >= self.margin)))
        count += -count % multiple
        # Not a number is the least sure of all.
        order = np.argsort(np.where(np.isnan(margins), -1.0, margins), kind="stable")
        chosen = np.sort(order[:count])
        sent = np.zeros(len(batch), bool)
        sent[chosen] = True
        if count:
            logits = logits.copy()
            logits[chosen] = self.engine(np.ascontiguousarray(batch[chosen]), self.then.name)
        return logits, sent


def check_cascade(engine: Engine, first: Profile | None, then: Profile | None, margin: float) -> Cascade:
    """The cascade of an engine.

    Raises:
        ClassifyError: the model puts out no logits of classes or has no settings, or the margin is no number from 0 on.
    """
    if engine.manifest.output != "logits":
        what = engine.manifest.output
        raise ClassifyError(f"a cascade needs logits to tell how sure an answer is, and this bundle puts out {what}")
    if first is None or then is None:
        raise ClassifyError("a cascade needs two settings, and this model has nothing to set")
    if isinstance(margin, bool) or not isinstance(margin, int | float | np.number) or not margin >= 0:
        raise ClassifyError(f"the margin of a cascade is a number from 0 to 1, not {shown(margin)}")
    return Cascade(engine, first, then, float(margin))


def margins_of(logits: Array) -> Array:
    """How sure answers are, float64[N]: the difference of the two largest probabilities; 1 where there is but one class.

    Args:
        logits: number[N, classes]; where one is no finite number the margin is NaN.
    """
    shares = softmax(logits)
    if shares.shape[1] == 1:
        return np.where(np.isnan(shares[:, 0]), np.nan, 1.0)
    best = np.partition(shares, -2, axis=1)[:, -2:]
    margins: Array = best[:, 1] - best[:, 0]
    return margins


def calibrated_margin(first: Array, then: Array, labels: Array | None = None, lost: int = 0) -> float:
    """The smallest margin at which a cascade answers as well as its second setting alone.

    It is the smallest for which that holds there and for every larger one, so that it isn't one image's luck.

    Args:
        first: logits at the first setting, number[N, classes]; each image routed alone, or in its usual company.
        then: logits of the same images at the second.
        labels: i64[N], what they show; without them the answers of the second setting count as right.
        lost: right answers that may be lost.

    Returns:
        0 where nothing needs to be sent on, up to `ESCALATE_ALL`.
    """
    answers = then.argmax(axis=1)
    truth = answers if labels is None else labels
    gain = (answers == truth).astype(int) - (first.argmax(axis=1) == truth)
    return margin_of_gains(margins_of(first), gain, lost)


def margin_of_gains(margins: Array, gain: Array, lost: int = 0) -> float:
    """What `calibrated_margin` finds, from less than logits.

    Args:
        margins: f64[N], of the answers at the first setting; see `margins_of`.
        gain: i64[N], 1 for an image that only the second setting answers right, -1 for one that only the first does, else 0.
        lost: right answers that may be lost.
    """
    always = int(np.count_nonzero(np.isnan(margins)))  # sent on at any margin
    margins = np.where(np.isnan(margins), -1.0, margins)
    order = np.argsort(margins, kind="stable")
    # right[n]: answers that are right beyond those of the first setting when the n least sure images are sent on.
    right = np.concatenate([[0], np.cumsum(gain[order])])
    short = np.flatnonzero(right < right[-1] - lost)
    count = min(int(short[-1]) + 1, len(order)) if len(short) else 0
    if count <= always:
        return 0.0
    ranked = margins[order]
    larger = np.flatnonzero(ranked > ranked[count - 1])  # who is as sure as one that must go goes, too
    return float(ranked[larger[0]]) if len(larger) else ESCALATE_ALL
