"""The results of a point that don't depend on timing.

They are accuracy, kept pairs, FLOPs, and the size of the weights that are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vmoe_measure.flops import ModelShape, sparse_flops
from vmoe_runtime.bundle.manifest import Manifest
from vmoe_runtime.errors import BundleError
from vmoe_runtime.precisions import EXPERT_WEIGHT_BYTES
from vmoe_runtime.routing import Array, Routing
from vmoe_tools.bench.planned_points import Point
from vmoe_tools.inspect.statistics import choices_of

Observe = Callable[[Array, Mapping[str, Routing], Array | None], object]
"""Receives the results of a batch of N images: logits [N, classes], the routing of each MoE layer, labels i64[N] or None."""


@dataclass(frozen=True)
class Quality:
    """The quality and cost of a point, over all whole batches of the images.

    Attributes:
        images: number of images.
        kept_pairs: share of the (token, choice) pairs of all MoE layers that got a slot. With expert choice, it is the
            share of the (token, expert) pairs. None for a dense model or a Soft MoE.
        top1: accuracy: share of the labelled images for which the largest logit belongs to the label's class. None if there
            are no labels.
        flops_per_image: FLOPs of matrix products. An expert's products count only the rows that it processed. None if the
            manifest lacks the sizes.
        expert_bytes_per_call: mean size in bytes of the expert weight matrices that a call reads. A call reads only experts
            with at least one row. None for a dense model.
    """

    images: int
    kept_pairs: float | None = None
    top1: float | None = None
    flops_per_image: int | None = None
    expert_bytes_per_call: int | None = None


class Assessment:
    """The results of a point, counted batch by batch without timing.

    The capacity does not determine how many pairs are kept, so kept pairs are counted. If a router prefers some experts,
    pairs are dropped long before all slots are taken.

    Attributes:
        point: the point to assess.
    """

    def __init__(self, point: Point, observers: Sequence[Observe] = ()) -> None:
        """Start with no batches.

        Args:
            point: the point to assess.
            observers: functions that receive the results of each batch.
        """
        self.point, self._observers = point, observers
        self._labelled = False
        # Six counts (images, calls, correct predictions, kept pairs, all pairs, experts with rows), followed by the number
        # of rows of each layer.
        self._counts = np.zeros(6 + len(point.engine.manifest.moe_layers), np.int64)

    def add(self, batch: Array, labels: Array | None) -> None:
        """Run a batch, and count its results.

        Args:
            batch: dtype[N,H,W,C], of the point's batch size.
            labels: i64[N]; None if there are no labels.

        Raises:
            VmoeError: the images don't fit the model, or the backend failed.
        """
        logits, routing = self.point.engine.logits_and_routing(batch, self.point.profile)
        labels = labels if self.point.engine.manifest.output == "logits" else None
        right = 0 if labels is None else count_right(logits, labels)
        pairs = [layer.kept for layer in routing.values() if layer.kept is not None]
        kept, every = sum(map(np.count_nonzero, pairs)), sum(layer.size for layer in pairs)
        work = [_work(layer) for layer in computed_pairs(routing, model_shape(self.point.engine.manifest)).values()]
        more = len(batch), 1, right, kept, every, sum(used for _, used in work), *(rows for rows, _ in work)
        for observe in self._observers:
            observe(logits, routing, labels)
        self._labelled = labels is not None
        # Add all counts in one step. Otherwise, an interrupt could leave a batch half counted.
        self._counts = self._counts + more

    def quality(self) -> Quality | None:
        """Return the quality over all batches added so far; None if no batch was added."""
        images, calls, right, kept, pairs, used, *rows = self._counts.tolist()
        if not images:
            return None
        manifest = self.point.engine.manifest
        shape = model_shape(manifest)
        profile = self.point.profile
        merge = (profile.merge or 0) if profile else 0
        weight_bytes = EXPERT_WEIGHT_BYTES[manifest.precision]
        expert_bytes = 0 if shape is None else 2 * shape.width * shape.expert_mlp_dim * weight_bytes
        return Quality(
            images,
            kept_pairs=kept / pairs if pairs else None,
            top1=right / images if self._labelled else None,
            flops_per_image=None if shape is None else sparse_flops(shape, [layer / images for layer in rows], merge),
            expert_bytes_per_call=round(used / calls * expert_bytes) if shape is not None and rows else None,
        )


def count_right(logits: Array, labels: Array) -> int:
    """Count the rows of `logits` [N, classes] whose largest value is finite and belongs to the class in `labels`."""
    return int(np.count_nonzero((logits.argmax(axis=1) == labels) & np.isfinite(logits.max(axis=1))))


def computed_pairs(routing: Mapping[str, Routing], shape: ModelShape | None) -> dict[str, Routing]:
    """Return the routing of the pairs that experts compute.

    If the last layer computes only the pairs of the class tokens, its other pairs are left out.
    """
    layers = dict(routing)
    if shape is None or not shape.ends_in_class_pairs:
        return layers
    name, last = layers.popitem()
    parts = {part: values for part in ("kept", "expert", "weight") if (values := getattr(last, part)) is not None}
    # With token merging, the last layer has fewer tokens per image than `shape.tokens`.
    tokens = shape.tokens if last.token is None else parts["kept"].size // parts["kept"].shape[2] // len(last.token)
    of_class = {part: values.reshape(1, -1, values.shape[2])[:, ::tokens] for part, values in parts.items()}
    return {**layers, name: replace(last, **of_class)}


def _work(layer: Routing) -> tuple[int, int]:
    """Return the number of rows that a layer's experts process, and the number of experts with at least one row.

    The rows are the kept pairs or, in a Soft MoE, the slots.
    """
    choices = choices_of(layer)
    rows = np.count_nonzero(choices.kept) if layer.dispatch is None else layer.dispatch[:, 0].size
    return int(rows), len(np.unique(choices.expert[choices.kept]))


def model_shape(manifest: Manifest) -> ModelShape | None:
    """Return the sizes that are needed to compute FLOPs; None if the manifest lacks them."""
    try:
        return ModelShape.of(manifest.model, features=manifest.output == "features", outputs=manifest.answers)
    except BundleError:
        return None
