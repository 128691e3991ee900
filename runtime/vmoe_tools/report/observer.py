"""Observes a setting's results on all images: classes, routing statistics, and the patches of the samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vmoe_runtime.bundle.manifest import Manifest
from vmoe_runtime.classes import probabilities_of
from vmoe_runtime.routing import Array, Routing
from vmoe_tools.inspect.patches import experts_and_tokens
from vmoe_tools.inspect.statistics import LayerStatistics, RoutingStatistics


class PointObserver:
    """An observer (see `vmoe_tools.bench.quality.Observe`) that records the results of every batch of a setting."""

    def __init__(self, samples: Sequence[int], manifest: Manifest, classes: int | None, *, has_routing: bool) -> None:
        """Start with no batches.

        Args:
            samples: ascending indices of the sample images among all images.
            manifest: the bundle's manifest.
            classes: number of label classes; None if there are no labels.
            has_routing: whether to record routing in addition to classes.
        """
        self._samples = np.array(samples, np.int64)
        self._kind = manifest.probabilities if manifest.output == "logits" else None
        self._has_routing = has_routing
        self._statistics = RoutingStatistics(classes)
        self._seen = 0
        self._answers: list[tuple[Array, Array]] = []
        self._patches: list[dict[str, Array]] = []

    def __call__(self, logits: Array, routing: Mapping[str, Routing], labels: Array | None) -> None:
        """Record the results of a batch."""
        here = self._samples[(self._samples >= self._seen) & (self._samples < self._seen + len(logits))] - self._seen
        if self._kind is not None:
            self._answers.append((logits.argmax(axis=1), probabilities_of(logits[here], self._kind).max(axis=1)))
        if self._has_routing:
            if len(here) and all(layer.layout is not None for layer in routing.values()):
                self._patches.append({name: experts_and_tokens(layer)[:, here] for name, layer in routing.items()})
            self._statistics.add(routing, len(logits), labels)
        self._seen += len(logits)

    @property
    def classes(self) -> Array | None:
        """i64[N]: for each image, the class with the largest logit; None if the bundle returns no logits."""
        return np.concatenate([classes for classes, _ in self._answers]) if self._answers else None

    @property
    def probabilities(self) -> Array | None:
        """f64[samples]: for each sample, the probability of the predicted class; None if the bundle returns no logits."""
        return np.concatenate([shares for _, shares in self._answers]) if self._answers else None

    @property
    def layers(self) -> dict[str, LayerStatistics]:
        """Statistics of each MoE layer over all images. They are empty if `has_routing` is false."""
        return self._statistics.layers()

    @property
    def patches(self) -> dict[str, Array] | None:
        """The patches of the samples: i64[2,samples,rows,columns] for each layer.

        Index 0 of the first axis is the expert of each patch, -1 if the patch was dropped. Index 1 is the token that
        contains the patch. The result is None if `has_routing` is false, or if it isn't known which tokens are patches.
        """
        parts = self._patches
        return {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]} if parts else None
