"""What a point answers and computes, as opposed to how fast: accuracy, kept pairs, FLOPs, weights that are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vmoe_bench.expert_use import expert_bytes, expert_rows, experts_used, flops_per_image, model_shape
from vmoe_bench.points import Point
from vmoe_runtime import Routing
from vmoe_runtime.image_source import ImageSource

Array = np.ndarray[Any, np.dtype[Any]]

Observe = Callable[[Array, Mapping[str, Routing], Array | None], object]
"""Is given what a batch of N images came to: logits [N, classes], the routing of each MoE layer, labels i64[N] or None."""


@dataclass(frozen=True)
class Quality:
    """What is left of the model at one point, over all whole batches of the images.

    Attributes:
        kept_pairs: share of the (token, choice) pairs of all MoE layers that got a place, or with experts choice of the
            (token, expert) pairs; None for a dense model and a Soft MoE.
        top1: share of the labelled images whose largest logit is that of their class; None without labels.
        images: how many there were.
        flops_per_image: of matrix products, those of the experts for what they were given; None where the manifest doesn't
            say the sizes.
        expert_bytes_per_call: bytes of the experts' weight matrices that a call reads, on average: those of every expert
            that has any row to work on. None for a dense model.
    """

    kept_pairs: float | None
    top1: float | None
    images: int
    flops_per_image: int | None
    expert_bytes_per_call: int | None


def images_assessed(point: Point, source: ImageSource) -> int:
    """How many images `assess` runs."""
    return len(source) // point.batch_size * point.batch_size


def assess(
    point: Point,
    source: ImageSource,
    after_batch: Callable[[int], None] = lambda images: None,
    observers: Sequence[Observe] = (),
) -> Quality:
    """Runs all whole batches of the images through a point, once and untimed.

    All numbers are about the same images. Kept pairs are counted and not computed from the capacity, because
    a router that prefers some experts drops pairs long before all places are taken.

    Args:
        point: the setting.
        source: the images.
        after_batch: called after each batch with its number of images.
        observers: are shown each batch's answers, for who wants to know more about them.

    Raises:
        VmoeError: the images don't fit, or the backend failed.
    """
    manifest = point.engine.manifest
    kept = asked = right = used = images = calls = 0
    rows = [0] * len(manifest.moe_layers)
    for batch, labels in source.whole_batches(point.batch_size, manifest.input):
        logits, routing = point.logits_and_routing(batch)
        batch_kept, batch_asked = count_pairs(routing.values())
        kept += batch_kept
        asked += batch_asked
        rows = [total + more for total, more in zip(rows, expert_rows(routing), strict=True)]
        used += experts_used(routing)
        if labels is not None:
            right += count_right(logits, labels)
        for observe in observers:
            observe(logits, routing, labels)
        images += len(batch)
        calls += 1
        after_batch(len(batch))
    shape = model_shape(manifest)
    return Quality(
        kept / asked if asked else None,
        right / images if source.labels is not None and images else None,
        images,
        flops_per_image(shape, rows, images) if shape is not None and images else None,
        round(used / calls * expert_bytes(shape, manifest)) if shape is not None and calls and rows else None,
    )


def count_pairs(routes: Iterable[Routing]) -> tuple[int, int]:
    """(kept, all): pairs of tokens and choices, or of tokens and experts with experts choice, over all given MoE layers.

    None of a Soft MoE, which has no pairs.
    """
    kept = [route.kept for route in routes if route.kept is not None]
    return sum(int(np.count_nonzero(layer)) for layer in kept), sum(layer.size for layer in kept)


def count_right(logits: Array, labels: Array) -> int:
    """How many rows of logits [N, classes] are largest at their label [N]."""
    return int(np.count_nonzero(logits.argmax(axis=1) == labels))
