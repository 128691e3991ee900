"""How far an image's answer moves with the images that share its batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vmoe_runtime import Engine, ImageError, Setting
from vmoe_runtime.routing import Array
from vmoe_tools.inspect.agreement import absolute_differences

_IMAGES_PER_CALL = 16


@dataclass(frozen=True)
class Interference:
    """The answers to the same images among other neighbours, compared with those among a first set of them.

    Differences are absolute, of logits or other outputs; all numbers are exactly 0 where every image is a
    group of its own.

    Attributes:
        images: how many were run.
        sets: sets of neighbours that each image was run among, the first one not counted.
        images_per_call: the image and its neighbours.
        max_difference: the largest, over images, sets and logits.
        mean_difference: the mean over all of them.
        top1_changed: share of the answers whose largest logit was at another class than among the first neighbours; None
            where the bundle returns no logits.
        images_changed: share of the images for which that ever happened; None as above.
    """

    images: int
    sets: int
    images_per_call: int
    max_difference: float
    mean_difference: float
    top1_changed: float | None
    images_changed: float | None


def interference(
    engine: Engine,
    images: Array,
    setting: Setting | str | None = None,
    sets: int = 100,
    seed: int = 0,
    after_set: Callable[[int], None] = lambda images: None,
) -> Interference:
    """Runs the same images again and again, each time in another order, so that each has other neighbours.

    A call has whole routing groups: 16 images, or a few more or less.

    Args:
        engine: what answers.
        images: as `engine.batch` gives them, [N,H,W,C]; those of whole calls are taken.
        setting: as for a call of the engine.
        sets: how many sets of neighbours each image has beside the first one, which is that of the given order.
        seed: of the orders.
        after_set: called after each set with its number of images.

    Raises:
        ImageError: there are too few images for two calls.
        VmoeError: as for a call of the engine.
    """
    multiple = engine.manifest.batch_multiple if engine.manifest.batch_multiple > 1 else 2
    if len(images) < 2 * multiple:
        raise ImageError(f"interference needs two batches of {multiple} images, but there are {len(images)} images")
    size = max(min(_IMAGES_PER_CALL, len(images) // 2) // multiple, 1) * multiple
    count = len(images) // size * size
    images, random = images[:count], np.random.default_rng(seed)
    first = _answers(engine, images, np.arange(count), size, setting)
    has_top1 = engine.manifest.output == "logits"
    top1 = first.argmax(axis=1) if has_top1 else None
    largest, total = 0.0, 0.0
    changed = np.zeros(count, np.int64)
    for _ in range(sets):
        answers = _answers(engine, images, random.permutation(count), size, setting)
        difference = absolute_differences(answers, first)
        largest = float(np.maximum(largest, difference.max()))
        total += float(difference.mean())
        if top1 is not None:
            changed += answers.argmax(axis=1) != top1
        after_set(count)
    return Interference(
        images=count,
        sets=sets,
        images_per_call=size,
        max_difference=largest,
        mean_difference=total / max(sets, 1),
        top1_changed=float(changed.sum() / (count * max(sets, 1))) if has_top1 else None,
        images_changed=float(np.mean(changed > 0)) if has_top1 else None,
    )


def _answers(engine: Engine, images: Array, order: Array, size: int, setting: Setting | str | None) -> Array:
    """The outputs of images that are called in some order, put back into their own order."""
    calls = [engine(images[order[start : start + size]], setting) for start in range(0, len(order), size)]
    answers = np.concatenate(calls)
    given = np.empty_like(answers)
    given[order] = answers
    return given
