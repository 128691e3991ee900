"""Compares the written TensorRT graphs, run by ONNX Runtime on the CPU, with the torch model.

In float32 a graph must give what the torch model gives. In a shorter type it can't, and a token whose two best gates are
close may go to another expert; how far it is from the torch model is measured, and refused only where it can't be rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx

from vmoe_export.errors import ExportError
from vmoe_export.validation.bfloat16_emulation import emulate_bfloat16
from vmoe_export.validation.graph_validation import fixed_graphs, run_fixed_graph
from vmoe_export.validation.limits import Limits
from vmoe_export.validation.reference import ROUNDED_IMAGES, Array, Reference
from vmoe_measure.comparison import Run, differences
from vmoe_runtime.bundle.manifest import TensorRtPrecision
from vmoe_runtime.profiles import Profile


@dataclass(frozen=True)
class RoundedComparison:
    """A TensorRT graph in a type shorter than float32 against torch, at its profile.

    Attributes:
        graph: file name of the graph.
        profile: name of the profile, or None for a dense ViT.
        how: "onnxruntime" ran the file itself; "emulated" ran it in float32 with every result rounded, where ONNX Runtime's
            CPU has no products of that type.
        max_difference: largest absolute difference of logits (or features), over all images.
        difference_alike: the same over the images whose routing agrees in every layer; 0 where there are none.
        relative_difference: how far the logits of a typical image are off, as a share of their size: the median of
            `relative_differences`.
        agreement: by MoE layer, such as "encoderblock_1", share of the (token, choice) pairs that both keep at the same
            expert or both drop.
        images: number of images compared.
        images_alike: number of images whose routing agrees in every layer.
    """

    graph: str
    profile: str | None
    how: Literal["onnxruntime", "emulated"]
    max_difference: float
    difference_alike: float
    relative_difference: float
    agreement: dict[str, float]
    images: int
    images_alike: int

    @property
    def all_pairs(self) -> float:
        """`agreement` over all layers; 1 for a dense ViT."""
        return float(np.mean(list(self.agreement.values()))) if self.agreement else 1.0


def validate_rounded(
    reference: Reference,
    folder: Path,
    graphs: Mapping[str, str],
    profiles: Sequence[Profile],
    precision: TensorRtPrecision,
) -> list[RoundedComparison]:
    """Runs each graph, and compares it with torch on a few more images than float32 needs.

    Args:
        reference: the torch model's answers.
        folder: where graphs and weights lie.
        graphs: from `write_tensorrt_graphs`.
        profiles: the profiles of the bundle; none for a dense ViT.
        precision: of the graphs.

    Raises:
        ExportError: a graph gives values that are not finite.
    """
    images = reference.first_images(ROUNDED_IMAGES)
    moe = reference.model.config.moe
    layers = [f"encoderblock_{i}" for i in (moe.layers if moe else ())]
    comparisons = []
    for graph, profile in fixed_graphs(graphs, profiles):
        found = (_run_emulated if precision == "bf16" else run_fixed_graph)(folder / graph, images, profile)
        if not np.isfinite(found.output).all():
            raise ExportError(
                f"validation failed: {graph} gives values that are not finite, since {precision} has no room for the "
                "model's; choose another --precision; no bundle was written"
            )
        apart = differences(reference.run(profile, len(images)), found)
        alike = apart.alike
        comparisons.append(
            RoundedComparison(
                graph,
                profile.name if profile else None,
                "emulated" if precision == "bf16" else "onnxruntime",
                float(apart.largest.max()),
                float(apart.largest[alike].max(initial=0)),
                float(np.median(apart.relative)),
                {layer: float(np.mean(pairs)) for layer, pairs in zip(layers, apart.pairs, strict=True)},
                len(images),
                int(alike.sum()),
            )
        )
    return comparisons


def check_rounded(comparisons: Iterable[RoundedComparison], precision: str, limits: Limits) -> None:
    """Refuses graphs that are too far from the torch model to be the same model, rounded.

    Raises:
        ExportError: routing or logits differ by more than the limits say.
    """
    for found in comparisons:
        start, end = f"validation failed: {found.graph}", "choose another --precision; no bundle was written"
        if not found.all_pairs >= limits.agreement:
            raise ExportError(
                f"{start} routes only {found.all_pairs:.2%} of the pairs as the torch model does, where {precision} should "
                f"reach {limits.agreement:.0%}; {end}"
            )
        if limits.relative is not None and not found.relative_difference <= limits.relative:
            raise ExportError(
                f"{start} gives logits that are typically {found.relative_difference:.1%} off those of the torch model, "
                f"where {precision} may be off by {limits.relative:.0%}; {end}"
            )
        if limits.difference is not None and not found.difference_alike <= limits.difference:
            raise ExportError(
                f"{start} differs from the torch model by {found.difference_alike:.2e}, more than --atol "
                f"{limits.difference:g}; choose another --precision or a larger --atol; no bundle was written"
            )


def _run_emulated(graph: Path, images: Array, profile: Profile | None) -> Run:
    # Beside the weights, which it points into.
    emulation = graph.with_name(f"{graph.stem}.emulation.onnx")
    try:
        emulated = emulate_bfloat16(onnx.load(graph, load_external_data=False))
        emulation.write_bytes(emulated.SerializeToString(deterministic=True))
        return run_fixed_graph(emulation, images, profile)
    finally:
        emulation.unlink(missing_ok=True)
