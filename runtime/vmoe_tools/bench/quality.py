"""What a point answers and computes, as opposed to how fast: accuracy, kept pairs, FLOPs, weights that are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vmoe_measure.image_source import ImageSource
from vmoe_runtime import Routing
from vmoe_runtime.bundle.manifest import InputSpec
from vmoe_tools.bench.expert_use import expert_bytes, expert_rows, experts_used, flops_per_image, model_shape
from vmoe_tools.bench.points import Point

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
    """How many images are in whole batches."""
    return len(source) // point.batch_size * point.batch_size


class Assessment:
    """Counts what a point does, batch by batch, untimed.

    Kept pairs are counted and not computed from the capacity, because a router that prefers some experts drops pairs long
    before all places are taken.
    """

    def __init__(self, point: Point, observers: Sequence[Observe] = ()) -> None:
        """Starts at nothing.

        Args:
            point: the setting.
            observers: are shown each batch's answers, for who wants to know more about them.
        """
        self._point, self._observers = point, observers
        self._labelled = False
        # Images, calls, right answers, kept pairs, all pairs, experts with rows, and the rows of each layer.
        self._counts = np.zeros(6 + len(point.engine.manifest.moe_layers), np.int64)

    def add(self, batch: Array, labels: Array | None) -> None:
        """Runs a batch of the point's size, dtype[N,H,W,C] with labels i64[N] or None.

        Raises:
            VmoeError: the images don't fit, or the backend failed.
        """
        logits, routing = self._point.logits_and_routing(batch)
        right = 0 if labels is None else count_right(logits, labels)
        more = len(batch), 1, right, *count_pairs(routing.values()), experts_used(routing), *expert_rows(routing)
        for observe in self._observers:
            observe(logits, routing, labels)
        self._labelled = labels is not None
        # In one step: an interrupt must not leave a batch half counted.
        self._counts = self._counts + more

    def quality(self) -> Quality | None:
        """What there is by now; None before the first batch."""
        images, calls, right, kept, asked, used, *rows = self._counts.tolist()
        if not images:
            return None
        manifest = self._point.engine.manifest
        shape = model_shape(manifest)
        return Quality(
            kept / asked if asked else None,
            right / images if self._labelled else None,
            images,
            None if shape is None else flops_per_image(shape, rows, images),
            round(used / calls * expert_bytes(shape, manifest)) if shape is not None and rows else None,
        )


def batches_of_points(points: Sequence[Point], source: ImageSource) -> Iterator[tuple[list[int], Array, Array | None]]:
    """Every whole batch for every point: (places of the points that take it, dtype[N,H,W,C], i64[N] or None).

    Points that take the same images get each batch together: a picture is read once for all of them, not once for each,
    and where that is cut short they are about the same images.

    Raises:
        ImageError: the images don't fit the model, or a file can't be read.
    """
    alike: dict[tuple[int, InputSpec], list[int]] = {}
    for place, point in enumerate(points):
        alike.setdefault((point.batch_size, point.engine.manifest.input), []).append(place)
    for (size, spec), places in alike.items():
        for batch, labels in source.whole_batches(size, spec):
            yield places, batch, labels


def count_pairs(routes: Iterable[Routing]) -> tuple[int, int]:
    """(kept, all): pairs of tokens and choices, or of tokens and experts with experts choice, over all given MoE layers.

    None of a Soft MoE, which has no pairs.
    """
    kept = [route.kept for route in routes if route.kept is not None]
    return sum(int(np.count_nonzero(layer)) for layer in kept), sum(layer.size for layer in kept)


def count_right(logits: Array, labels: Array) -> int:
    """How many rows of logits [N, classes] are largest at their label [N]."""
    return int(np.count_nonzero(logits.argmax(axis=1) == labels))
