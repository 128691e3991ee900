"""Compares the written TensorRT graphs, run by ONNX Runtime on the CPU, with the torch model.

In float32 a graph must give what the torch model gives. In a shorter type it can't, and a token whose two best gates are
close may go to another expert; how far it is from the torch model is measured, and refused only where it can't be rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx

from vmoe_export.errors import ExportError
from vmoe_export.precision import Limits
from vmoe_export.validation.bfloat16_emulation import emulate_bfloat16
from vmoe_export.validation.graph_validation import (
    Array,
    Comparison,
    Run,
    compare,
    relative_differences,
    run_torch,
    validation_images,
)
from vmoe_runtime.bundle.manifest import DENSE_GRAPH_KEY, TensorRtPrecision
from vmoe_runtime.comparison import pairs_alike
from vmoe_runtime.profiles import Profile

if TYPE_CHECKING:
    from vmoe_export.model.torch_model import Vmoe

_IMAGES = 8

# A token with two gates that are nearly the same may go to either expert, and from there on its image takes another path;
# so the typical image stands for the numbers. bfloat16 has 8 bits, and is rounded after every operation here.
LIMITS: Mapping[TensorRtPrecision, Limits] = {"fp16": Limits(None, 0.02, 0.95), "bf16": Limits(None, 0.1, 0.85)}
"""What a graph in a shorter type than float32 may differ by from torch in float32."""


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
            `validation.relative_differences`.
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


def rounded_limits(precision: TensorRtPrecision, atol: float | None) -> Limits:
    """What is accepted: `atol` over the images whose routing agrees where it is given, or else what the type says."""
    limits = LIMITS[precision]
    return limits if atol is None else Limits(atol, limits.relative, limits.agreement)


def validate_float32(
    model: Vmoe, folder: Path, graphs: Mapping[str, str], profiles: Sequence[Profile], batch_multiple: int
) -> list[Comparison]:
    """Runs each float32 graph on the images of validation and compares it with torch.

    Args:
        model: the torch model with its stored weights.
        folder: where graphs and weights lie.
        graphs: from `write_tensorrt_graphs`.
        profiles: the profiles of the bundle; none for a dense ViT.
        batch_multiple: images that fill whole routing groups.
    """
    images = validation_images(model, batch_multiple)
    return [
        compare(graph, profile, run_torch(model, images, profile), _run(folder / graph, images, profile))
        for graph, profile in _settings(graphs, profiles)
    ]


def validate_rounded(
    model: Vmoe,
    folder: Path,
    graphs: Mapping[str, str],
    profiles: Sequence[Profile],
    batch_multiple: int,
    precision: TensorRtPrecision,
) -> list[RoundedComparison]:
    """The same for graphs in fp16 or bf16, on a few more images.

    Args:
        model, folder, graphs, profiles, batch_multiple: as for `validate_float32`.
        precision: of the graphs.

    Raises:
        ExportError: a graph gives values that are not finite.
    """
    images = validation_images(model, batch_multiple, _IMAGES)
    layers = [f"encoderblock_{i}" for i in (model.config.moe.layers if model.config.moe else ())]
    comparisons = []
    for graph, profile in _settings(graphs, profiles):
        expected = run_torch(model, images, profile)
        found = (_run_emulated if precision == "bf16" else _run)(folder / graph, images, profile)
        if not np.isfinite(found.output).all():
            raise ExportError(
                f"validation failed: {graph} gives values that are not finite, since {precision} has no room for the "
                "model's; choose another --precision; no bundle was written"
            )
        alike = pairs_alike(expected.placed, found.placed, len(images))
        same = np.all([layer.all(axis=1) for layer in alike], axis=0) if alike else np.ones(len(images), bool)
        difference = np.abs(expected.output - found.output)
        comparisons.append(
            RoundedComparison(
                graph,
                profile.name if profile else None,
                "emulated" if precision == "bf16" else "onnxruntime",
                float(difference.max()),
                float(difference[same].max(initial=0)),
                float(np.median(relative_differences(expected.output, found.output))),
                {layer: float(np.mean(pairs)) for layer, pairs in zip(layers, alike, strict=True)},
                len(images),
                int(same.sum()),
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


def _settings(graphs: Mapping[str, str], profiles: Sequence[Profile]) -> Iterable[tuple[str, Profile | None]]:
    for profile in profiles or (None,):
        yield graphs[profile.name if profile else DENSE_GRAPH_KEY], profile


def _run(graph: Path, images: Array, profile: Profile | None) -> Run:
    from vmoe_runtime.backends.onnxruntime_cpu import OnnxRuntimeBackend

    return Run.of(("slot", "weight"), OnnxRuntimeBackend(graph).run({"image": images}, []), profile)


def _run_emulated(graph: Path, images: Array, profile: Profile | None) -> Run:
    # Beside the weights, which it points into.
    emulation = graph.with_name(f"{graph.stem}.emulation.onnx")
    try:
        emulated = emulate_bfloat16(onnx.load(graph, load_external_data=False))
        emulation.write_bytes(emulated.SerializeToString(deterministic=True))
        return _run(emulation, images, profile)
    finally:
        emulation.unlink(missing_ok=True)
