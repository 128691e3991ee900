"""Compares the written graphs, run by ONNX Runtime, with the torch model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vmoe_export.errors import ExportError
from vmoe_export.validation.limits import Limits
from vmoe_export.validation.reference import GRAPH_IMAGES, Array, Reference
from vmoe_measure.comparison import Run, differences
from vmoe_runtime.bundle.manifest import DENSE_GRAPH_KEY
from vmoe_runtime.profiles import Profile


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


def validate_graphs(
    reference: Reference, folder: Path, graphs: Iterable[str], profiles: Sequence[Profile]
) -> list[Comparison]:
    """Runs each graph at each profile, and compares it with torch.

    Args:
        reference: the torch model's answers.
        folder: where graphs and weights lie.
        graphs: file names.
        profiles: the profiles of the bundle; none for a dense ViT.
    """
    from vmoe_runtime.backends.onnxruntime_cpu import OnnxRuntimeBackend

    images = reference.first_images(GRAPH_IMAGES)
    comparisons = []
    for graph in graphs:
        backend = OnnxRuntimeBackend(folder / graph)
        for profile in profiles or (None,):
            feeds = {"image": images, **(profile.inputs if profile else {})}
            found = Run.of(reference.model.layer_outputs, backend.run(feeds, []), profile)
            comparisons.append(_compare(graph, profile, reference.run(profile, len(images)), found))
    return comparisons


def validate_fixed_graphs(
    reference: Reference, folder: Path, graphs: Mapping[str, str], profiles: Sequence[Profile]
) -> list[Comparison]:
    """The same for TensorRT graphs in float32, each fixed to its profile; `graphs` are of `write_tensorrt_graphs`."""
    images = reference.first_images(GRAPH_IMAGES)
    return [
        _compare(graph, profile, reference.run(profile, len(images)), run_fixed_graph(folder / graph, images, profile))
        for graph, profile in fixed_graphs(graphs, profiles)
    ]


def fixed_graphs(graphs: Mapping[str, str], profiles: Sequence[Profile]) -> Iterable[tuple[str, Profile | None]]:
    """TensorRT graphs with their profiles."""
    for profile in profiles or (None,):
        yield graphs[profile.name if profile else DENSE_GRAPH_KEY], profile


def run_fixed_graph(graph: Path, images: Array, profile: Profile | None) -> Run:
    """What ONNX Runtime gives for a TensorRT graph."""
    from vmoe_runtime.backends.onnxruntime_cpu import OnnxRuntimeBackend

    return Run.of(("slot", "weight"), OnnxRuntimeBackend(graph).run({"image": images}, []), profile)


def _compare(graph: str, profile: Profile | None, expected: Run, found: Run) -> Comparison:
    apart = differences(expected, found)
    alike = apart.alike
    return Comparison(
        graph,
        profile.name if profile else None,
        float(apart.largest[alike if alike.any() else ~alike].max()),
        float(np.median(apart.relative)),
        apart.agreement,
        len(alike),
        int(alike.sum()),
    )


def check_graphs(comparisons: Iterable[Comparison], limits: Limits) -> None:
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
