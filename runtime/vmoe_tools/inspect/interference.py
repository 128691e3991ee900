"""Interference: how much the output for an image depends on the other images of its batch."""

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
    """The changes in the outputs for images when the other images in their batch change.

    Every image is run with a first set of neighbours, and then with other sets. Its neighbours are the other images in
    the batch. A difference is the absolute difference between an output (a logit, for example) and the same output with the
    first set. If every image is its own routing group, all differences and changes are exactly 0.

    Attributes:
        images: number of images.
        sets: number of other sets of neighbours for each image.
        images_per_call: images per call: an image and its neighbours.
        max_difference: the largest difference over images, sets and outputs.
        mean_difference: the mean difference over images, sets and outputs.
        top1_changed: share of the predictions, over images and sets, that differ from the prediction with the first set;
            None if the bundle returns no logits.
        images_changed: share of the images whose prediction changed with at least one set; None if the bundle returns no
            logits.
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
    """Run the same images repeatedly. The order changes each time, so that each image has other neighbours.

    A call has about 16 images, in whole routing groups.

    Args:
        engine: the engine.
        images: [N,H,W,C], the result of `engine.batch`. Images at the end that don't fill a call are ignored.
        setting: the setting, in any form that a call of the engine accepts.
        sets: number of shuffled orders, in addition to the original order, which is run first.
        seed: random seed of the orders.
        after_set: called with the number of images after each run of all images in a shuffled order.

    Raises:
        ImageError: there are too few images for two calls.
        VmoeError: any error that a call of the engine raises.
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
    """Run the images in the order `order`, and return the outputs in the images' original order."""
    calls = [engine.outputs(images[order[start : start + size]], setting) for start in range(0, len(order), size)]
    answers = np.concatenate([call[engine.manifest.output] for call in calls])
    original = np.empty_like(answers)
    original[order] = answers
    return original
