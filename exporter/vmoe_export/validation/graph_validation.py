"""Compares the written graphs, run by ONNX Runtime, with the torch model they were traced from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from vmoe_export.errors import ExportError
from vmoe_export.precision import Limits
from vmoe_runtime.comparison import pairs_alike, smooth_images
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing import placed_pairs

if TYPE_CHECKING:
    from vmoe_export.model.torch_model import Vmoe

Array = np.ndarray[Any, np.dtype[Any]]

_IMAGES = 2


@dataclass(frozen=True)
class Comparison:
    """One graph at one profile against torch.

    Attributes:
        graph: file name of the graph.
        profile: name of the profile, or None for a dense ViT.
        max_difference: largest absolute difference of logits (or features), over the images whose routing agrees; over all
            images where it agrees on none.
        relative_difference: how far the logits of a typical image are off, as a share of their size: the median of
            `relative_differences`.
        agreement: share of the (token, choice) pairs that were kept or dropped alike by both.
        images: number of images compared.
        images_alike: number of images whose routing agrees in every layer.
    """

    graph: str
    profile: str | None
    max_difference: float
    relative_difference: float
    agreement: float
    images: int
    images_alike: int


def validate(
    model: Vmoe, folder: Path, graphs: Iterable[str], profiles: Iterable[Profile], batch_multiple: int
) -> list[Comparison]:
    """Runs each graph at each profile on smooth random images and compares it with torch.

    A rounding difference of one unit in the last place may decide between two tokens with nearly the same gate. From there
    on an image takes another path, and its logits say nothing about the graph's exactness; so such images count against
    the agreement, and the difference is taken over the others.
    """
    from vmoe_runtime.backends.onnxruntime_cpu import OnnxRuntimeBackend

    images = validation_images(model, batch_multiple)
    settings: list[Profile | None] = list(profiles) or [None]
    expected = [run_torch(model, images, profile) for profile in settings]
    comparisons = []
    for graph in graphs:
        backend = OnnxRuntimeBackend(folder / graph)
        for profile, reference in zip(settings, expected, strict=True):
            feeds = {"image": images, **(profile.inputs() if profile else {})}
            found = Run.of(model.layer_outputs, backend.run(feeds, []), profile)
            comparisons.append(compare(graph, profile, reference, found))
    return comparisons


def check(comparisons: Iterable[Comparison], limits: Limits) -> None:
    """Refuses a model whose graphs don't do what the torch model does.

    Raises:
        ExportError: logits differ by more than the limits say, or routing does.
    """
    for comparison in comparisons:
        where = f"{comparison.graph}" + (f" at {comparison.profile}" if comparison.profile else "")
        if comparison.agreement < limits.agreement or (limits.difference is not None and not comparison.images_alike):
            raise ExportError(
                f"validation failed: {where} routes {comparison.agreement:.2%} of the pairs as the torch model does, "
                f"and {comparison.images_alike} of {comparison.images} images throughout; no bundle was written"
            )
        if limits.difference is not None and not comparison.max_difference <= limits.difference:
            raise ExportError(
                f"validation failed: {where} differs from the torch model by {comparison.max_difference:.2e}, "
                f"more than --atol {limits.difference:g}; no bundle was written"
            )
        if limits.relative is not None and not comparison.relative_difference <= limits.relative:
            raise ExportError(
                f"validation failed: the logits of {where} differ from those of the torch model by "
                f"{comparison.relative_difference:.1%}, more than {limits.relative:.0%}; no bundle was written"
            )


def validation_images(model: Vmoe, batch_multiple: int, least: int = _IMAGES) -> Array:
    """The smallest batch of smooth random images, as the model takes them: at least so many, in whole routing groups."""
    config = model.config
    count = -(-least // batch_multiple) * batch_multiple
    images = smooth_images(count, *config.image_size, config.channels)
    return images if model.uint8_input else (images / 127.5 - 1).astype(np.float32)


@dataclass(frozen=True)
class Run:
    """What a model gave for a batch: logits, members or features, and where the pairs of each MoE layer got their places.

    `placed` are those of `vmoe_runtime.routing.placed_pairs`.
    """

    output: Array
    placed: list[Array]

    @classmethod
    def of(cls, names: Sequence[str], values: Sequence[Array], profile: Profile | None) -> Self:
        """From what a graph gave: its output, then for each MoE layer what is called `names`."""
        return cls(values[0], placed_pairs(names, values[1:], profile))


def run_torch(model: Vmoe, images: Array, profile: Profile | None) -> Run:
    """What the torch model gives."""
    import torch

    settings = [torch.from_numpy(value) for value in profile.inputs().values()] if profile else []
    with torch.inference_mode():
        values = [tensor.numpy() for tensor in model(torch.from_numpy(images), *settings)]
    return Run.of(model.layer_outputs, values, profile)


def compare(graph: str, profile: Profile | None, expected: Run, found: Run) -> Comparison:
    """What a graph gave against what torch gives."""
    count = len(expected.output)
    alike = np.ones(count, bool)
    agreement = 1.0
    if pairs := pairs_alike(expected.placed, found.placed, count):
        alike = np.all([layer.all(axis=1) for layer in pairs], axis=0)
        agreement = float(np.mean(pairs))
    difference = np.abs(expected.output - found.output)
    return Comparison(
        graph,
        profile.name if profile else None,
        float(difference[alike if alike.any() else ~alike].max()),
        float(np.median(relative_differences(expected.output, found.output))),
        agreement,
        count,
        int(alike.sum()),
    )


def relative_differences(expected: Array, found: Array) -> Array:
    """How far the logits of each image are off, as a share of their size: |found - expected| / |expected|, f32[images].

    The median is the typical image. One in which a token went to another expert may be off by far more, which says
    nothing about the numbers.
    """
    size = np.maximum(np.linalg.norm(expected, axis=1), np.finfo(np.float32).tiny)
    shares: Array = np.linalg.norm(found - expected, axis=1) / size
    return shares
