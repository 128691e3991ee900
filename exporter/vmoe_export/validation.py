"""Compares the written graphs, run by ONNX Runtime, with the torch model they were traced from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vmoe_export.errors import ExportError
from vmoe_runtime.comparison import pairs_alike, smooth_images
from vmoe_runtime.profiles import Profile

if TYPE_CHECKING:
    from vmoe_export.model import Vmoe

Array = np.ndarray[Any, np.dtype[Any]]

DEFAULT_ATOL = 1e-4
# Where a model rounds to bfloat16, float32 values that differ in the last bit may round to neighbours, 1/256 apart. One such
# value moves the logits by up to a few 1e-3, and right implementations differ by several of them.
DEFAULT_ATOL_BF16 = 1e-2
_MIN_AGREEMENT = 0.995
_IMAGES = 2


@dataclass(frozen=True)
class Comparison:
    """One graph at one profile against torch.

    Attributes:
        graph: file name of the graph.
        profile: name of the profile, or None for a dense ViT.
        max_difference: largest absolute difference of logits (or features), over the images whose routing agrees.
        agreement: share of the (token, choice) pairs that were kept or dropped alike by both.
        images: number of images compared.
        images_alike: number of images whose routing agrees in every layer.
    """

    graph: str
    profile: str | None
    max_difference: float
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
            result = backend.run(feeds, [])
            comparisons.append(compare(graph, profile, reference, result))
    return comparisons


def check(comparisons: Iterable[Comparison], atol: float) -> None:
    """Refuses a model whose graphs don't do what the torch model does.

    Raises:
        ExportError: logits differ by more than `atol`, or routing agrees on less than 99.5 % of the pairs.
    """
    for comparison in comparisons:
        where = f"{comparison.graph}" + (f" at {comparison.profile}" if comparison.profile else "")
        if comparison.agreement < _MIN_AGREEMENT or not comparison.images_alike:
            raise ExportError(
                f"validation failed: {where} routes {comparison.agreement:.2%} of the pairs as the torch model does, "
                f"and {comparison.images_alike} of {comparison.images} images throughout; no bundle was written"
            )
        if not comparison.max_difference <= atol:
            raise ExportError(
                f"validation failed: {where} differs from the torch model by {comparison.max_difference:.2e}, "
                f"more than --atol {atol:g}; no bundle was written"
            )


def validation_images(model: Vmoe, batch_multiple: int) -> Array:
    """The smallest batch of smooth random images, as the model takes them: at least two, in whole routing groups."""
    config = model.config
    count = -(-_IMAGES // batch_multiple) * batch_multiple
    images = smooth_images(count, *config.image_size, config.channels)
    return images if model.uint8_input else (images / 127.5 - 1).astype(np.float32)


def run_torch(model: Vmoe, images: Array, profile: Profile | None) -> list[Array]:
    """What the torch model gives: logits (or features), then slot and weight of each MoE layer."""
    import torch

    settings = [torch.from_numpy(value) for value in profile.inputs().values()] if profile else []
    with torch.inference_mode():
        return [tensor.numpy() for tensor in model(torch.from_numpy(images), *settings)]


def compare(graph: str, profile: Profile | None, expected: list[Array], found: list[Array]) -> Comparison:
    """What a graph gave against what torch gives: logits (or features), then slot and weight of each MoE layer."""
    count = len(expected[0])
    alike = np.ones(count, bool)
    agreement = 1.0
    if profile is not None:
        pairs = pairs_alike(expected, found, profile)
        alike = np.all([layer.all(axis=1) for layer in pairs], axis=0)
        agreement = float(np.mean(pairs))
    difference = np.abs(expected[0] - found[0])[alike]
    return Comparison(
        graph,
        profile.name if profile else None,
        float(difference.max()) if difference.size else float("inf"),
        agreement,
        count,
        int(alike.sum()),
    )
