"""How well a point answers, as opposed to how fast: the share of pairs it keeps, and its top-1 accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vmoe_bench.points import Point
from vmoe_runtime import Routing
from vmoe_runtime.image_source import ImageSource

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Quality:
    """What is left of the model at one point.

    Attributes:
        kept_pairs: share of the (token, choice) pairs of all MoE layers that got a place, or with experts choice of the
            (token, expert) pairs; None for a dense model and a Soft MoE.
        top1: share of the labelled images whose largest logit is that of their class; None without labels.
    """

    kept_pairs: float | None
    top1: float | None


def images_assessed(point: Point, source: ImageSource) -> int:
    """How many images `assess` runs: none where they tell nothing."""
    if point.profile is None and source.labels is None:
        return 0
    return len(source) // point.batch_size * point.batch_size


def assess(point: Point, source: ImageSource, after_batch: Callable[[int], None] = lambda images: None) -> Quality:
    """Runs all whole batches of the images through a point, once and untimed.

    Both numbers are about the same images. Kept pairs are counted and not computed from the capacity, because
    a router that prefers some experts drops pairs long before all places are taken.

    Args:
        point: the setting.
        source: the images.
        after_batch: called after each batch with its number of images.

    Raises:
        VmoeError: the images don't fit, or the backend failed.
    """
    if not images_assessed(point, source):
        return Quality(None, None)
    kept = asked = right = seen = 0
    for batch, labels in source.whole_batches(point.batch_size, point.engine.manifest.input):
        if point.profile is not None:
            batch_kept, batch_asked = count_pairs(point.routing(batch).values())
            kept += batch_kept
            asked += batch_asked
        if labels is not None:
            right += count_right(point.logits(batch), labels)
            seen += len(labels)
        after_batch(len(batch))
    return Quality(kept / asked if asked else None, right / seen if seen else None)


def count_pairs(routes: Iterable[Routing]) -> tuple[int, int]:
    """(kept, all): pairs of tokens and choices, or of tokens and experts with experts choice, over all given MoE layers.

    None of a Soft MoE, which has no pairs.
    """
    kept = [route.kept for route in routes if route.kept is not None]
    return sum(int(np.count_nonzero(layer)) for layer in kept), sum(layer.size for layer in kept)


def count_right(logits: Array, labels: Array) -> int:
    """How many rows of logits [N, classes] are largest at their label [N]."""
    return int(np.count_nonzero(logits.argmax(axis=1) == labels))
