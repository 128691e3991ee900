"""Observes a setting while all images run through it: classes, routing, patches of the samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from vmoe_runtime.bundle.manifest import Probabilities
from vmoe_runtime.classes import probabilities_of
from vmoe_runtime.routing import Array, Routing
from vmoe_tools.inspect.patches import experts_and_tokens
from vmoe_tools.inspect.statistics import LayerStatistics, RoutingStatistics

_IMAGES_AT_ONCE = 64


@dataclass(frozen=True)
class Observed:
    """What was observed at one setting.

    Attributes:
        classes: i64[N], of the largest logit; None if the bundle returns no logits.
        probabilities: f64[samples], of these classes; None as above.
        layers: statistics of each MoE layer over all images; empty if they weren't requested.
        patches: for each layer i64[2,samples,rows,columns]: the expert of each patch of the samples, -1 if it was dropped,
            and the token that contains it; None if they weren't requested, or if it isn't known which tokens are patches.
    """

    classes: Array | None
    probabilities: Array | None
    layers: Mapping[str, LayerStatistics]
    patches: Mapping[str, Array] | None


class PointObserver:
    """Observes every batch of a setting; a `vmoe_tools.bench.quality.Observe`."""

    def __init__(
        self, samples: Sequence[int], *, kind: Probabilities | None, has_routing: bool, classes: int | None
    ) -> None:
        """Starts at the first image.

        Args:
            samples: ascending indices of the sample images among all images.
            kind: how logits [N,classes] become probabilities; None where there are none.
            has_routing: whether routing is requested.
            classes: number of classes of the labels; None without labels.
        """
        self._samples = np.array(samples, np.int64)
        self._kind = kind
        self._statistics = RoutingStatistics(classes) if has_routing else None
        self._seen = 0
        self._answers: list[tuple[Array, Array]] = []
        self._patches: list[dict[str, Array]] = []
        self._waiting: list[tuple[Mapping[str, Routing], Array | None, int]] = []

    def __call__(self, logits: Array, routing: Mapping[str, Routing], labels: Array | None) -> None:
        """Takes the results of a batch."""
        here = self._samples[(self._samples >= self._seen) & (self._samples < self._seen + len(logits))] - self._seen
        if self._kind is not None:
            self._answers.append((logits.argmax(axis=1), probabilities_of(logits[here], self._kind).max(axis=1)))
        if self._statistics is not None:
            if len(here) and all(layer.layout is not None for layer in routing.values()):
                self._patches.append({name: experts_and_tokens(layer)[:, here] for name, layer in routing.items()})
            self._waiting.append((routing, labels, len(logits)))
            if sum(images for _, _, images in self._waiting) >= _IMAGES_AT_ONCE:
                self._count()
        self._seen += len(logits)

    def result(self) -> Observed:
        """What was observed."""
        self._count()
        layers = {} if self._statistics is None else self._statistics.layers()
        classes, probabilities = map(np.concatenate, zip(*self._answers, strict=True)) if self._answers else (None, None)
        patches = {name: np.concatenate([part[name] for part in self._patches], axis=1) for name in layers if self._patches}
        return Observed(classes, probabilities, layers, patches or None)

    def _count(self) -> None:
        """Adds the waiting batches to the statistics: a few large ones are much faster than many small ones."""
        if self._statistics is None or not self._waiting:
            return
        routings, labels, images = zip(*self._waiting, strict=True)
        joined = {name: _joined([routing[name] for routing in routings]) for name in routings[0]}
        known = [part for part in labels if part is not None]
        self._statistics.add(joined, sum(images), np.concatenate(known) if len(known) == len(labels) else None)
        self._waiting.clear()


def _joined(parts: Sequence[Routing]) -> Routing:
    """The routing of several batches, concatenated."""
    arrays = [field.name for field in fields(Routing) if isinstance(getattr(parts[0], field.name), np.ndarray)]
    joined: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in arrays}
    return replace(parts[0], **joined)
