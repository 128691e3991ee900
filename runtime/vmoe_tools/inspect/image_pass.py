"""One pass of one or more bundles over all images: what the routers of the first do, and how the others agree with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vmoe_measure.image_source import ImageSource
from vmoe_runtime import Engine, ImageError
from vmoe_runtime.images import to_batch
from vmoe_tools.inspect.agreement import Agreement, AgreementCount
from vmoe_tools.inspect.statistics import LayerStatistics, RoutingStatistics

Array = np.ndarray[Any, np.dtype[Any]]

_IMAGES_PER_CALL = 16


@dataclass(frozen=True)
class ImagePass:
    """What a pass found.

    Attributes:
        images: how many were run.
        top1: share of right answers of the first bundle; None without labels.
        layers: its statistics of each MoE layer, by name.
        agreements: of each other bundle with it.
    """

    images: int
    top1: float | None
    layers: dict[str, LayerStatistics]
    agreements: tuple[Agreement, ...]


def common_multiple(engines: Sequence[Engine]) -> int:
    """The fewest images that are whole groups of all bundles."""
    return int(np.lcm.reduce([engine.manifest.batch_multiple for engine in engines]))


def run_images(
    engines: Sequence[Engine],
    source: ImageSource,
    setting: str | None,
    after_batch: Callable[[int], None] = lambda images: None,
) -> ImagePass:
    """Runs all images that make whole groups, once; what is left over is skipped.

    Args:
        engines: bundles of one model, the inspected one first.
        source: the images.
        setting: name of the profile that all run with; None for a model without profiles.
        after_batch: called after each batch with its number of images.

    Raises:
        ImageError: there are fewer images than a group has.
        VmoeError: the images don't fit, or a bundle can't be run with the profile.
    """
    first, *others = engines
    manifest = first.manifest
    experts = manifest.rules.num_experts if manifest.rules else 0
    has_top1 = manifest.output == "logits"
    labelled = has_top1 and source.labels is not None
    statistics = RoutingStatistics(experts, manifest.outputs if labelled else None)
    counts = [AgreementCount(experts, has_top1=has_top1) for _ in others]
    images = right = 0
    for chosen in _whole_groups(len(source), common_multiple(engines)):
        pictures = source.images[chosen]
        batch = to_batch(pictures, manifest.input)
        labels = None if source.labels is None or not labelled else source.labels[chosen]
        outputs, routing = first.logits_and_routing(batch, setting)
        statistics.add(routing, len(batch), labels)
        if labels is not None:
            right += int(np.count_nonzero(outputs.argmax(axis=1) == labels))
        for engine, count in zip(others, counts, strict=True):
            same_input = engine.manifest.input == manifest.input
            theirs = engine.logits_and_routing(batch if same_input else pictures, setting)
            count.add(outputs, theirs[0], routing, theirs[1])
        images += len(batch)
        after_batch(len(batch))
    layers, agreements = statistics.layers(), tuple(count.result() for count in counts)
    return ImagePass(images, right / images if labelled else None, layers, agreements)


def _whole_groups(images: int, multiple: int) -> Iterator[slice]:
    """Slices of 16 images or a few more, the last one of fewer."""
    whole, size = images // multiple * multiple, -(-_IMAGES_PER_CALL // multiple) * multiple
    if not whole:
        raise ImageError(f"a group needs {multiple} images, and there {'is' if images == 1 else 'are'} {images}")
    for start in range(0, whole, size):
        yield slice(start, min(start + size, whole))
