"""The agreement of two bundles of one model, for example in two precisions.

It compares the bundles' outputs and routing on the same images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vmoe_runtime.routing import Array, Routing
from vmoe_tools.inspect.statistics import choices_of


@dataclass(frozen=True)
class Agreement:
    """The agreement of two bundles on the same images, at the same setting.

    Attributes:
        images: number of images.
        same_top1: share of the images for which both bundles predict the same class; None if they don't return logits.
        max_difference: the largest absolute difference of the logits or, without logits, of the main outputs.
        mean_difference: the mean absolute difference.
        same_experts: by MoE layer, the share of the tokens that exactly the same experts keep in both bundles. A token that
            both bundles drop counts as the same. Empty for a dense ViT, and for a Soft MoE, in which all experts process
            every token.
    """

    images: int
    same_top1: float | None
    max_difference: float
    mean_difference: float
    same_experts: Mapping[str, float]


class AgreementCount:
    """Counts how far two bundles agree, over all batches."""

    def __init__(self, *, has_top1: bool) -> None:
        """Start with no batches.

        Args:
            has_top1: whether the outputs are logits [N,classes].
        """
        self._has_top1 = has_top1
        self._images = self._same = self._values = 0
        self._largest = self._total = 0.0
        self._alike: dict[str, list[Array]] = {}

    def add(
        self, ours: Array, theirs: Array, our_routing: Mapping[str, Routing], their_routing: Mapping[str, Routing]
    ) -> None:
        """Add a batch of N images.

        Args:
            ours, theirs: f32[N, ...], the outputs of the two bundles.
            our_routing, their_routing: the routing of the two bundles, by MoE layer. The bundles may have different routing
                groups, because tokens are compared in the order of the images.
        """
        difference = absolute_differences(ours, theirs)
        self._images += len(ours)
        self._values += difference.size
        self._largest = float(np.maximum(self._largest, difference.max(initial=0)))
        self._total += float(difference.sum())
        if self._has_top1:
            self._same += int(np.count_nonzero(ours.argmax(axis=1) == theirs.argmax(axis=1)))
        for name, layer in our_routing.items():
            if layer.kind == "soft":
                continue
            alike = (_keepers(layer) == _keepers(their_routing[name])).all(axis=1)
            self._alike.setdefault(name, []).append(alike)

    def result(self) -> Agreement:
        """Return the agreement over all batches. At least one batch must have been added."""
        return Agreement(
            images=self._images,
            same_top1=self._same / self._images if self._has_top1 else None,
            max_difference=self._largest,
            mean_difference=self._total / self._values,
            same_experts={name: float(np.concatenate(alike).mean()) for name, alike in self._alike.items()},
        )


def _keepers(routing: Routing) -> Array:
    """Return bool[T,E]: whether each expert keeps each token."""
    choices = choices_of(routing.by_token())
    keepers = np.zeros((len(choices.kept), routing.experts), bool)
    token, choice = np.nonzero(choices.kept)
    keepers[token, choices.expert[token, choice]] = True
    return keepers


def absolute_differences(ours: Array, theirs: Array) -> Array:
    """Return |ours - theirs| as f64 of the same shape. Two equal infinities, or two NaN, have a difference of 0."""
    with np.errstate(invalid="ignore"):
        apart = np.abs(ours.astype(np.float64) - theirs)
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    distances: Array = np.where(same, 0.0, apart)
    return distances
