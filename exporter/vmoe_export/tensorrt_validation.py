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

from vmoe_export.bfloat16_emulation import emulate_bfloat16
from vmoe_export.errors import ExportError
from vmoe_export.validation import Array, Comparison, compare, run_torch, validation_images
from vmoe_runtime.comparison import pairs_alike
from vmoe_runtime.manifest import DENSE_GRAPH_KEY, TensorRtPrecision
from vmoe_runtime.profiles import Profile

if TYPE_CHECKING:
    from vmoe_export.model import Vmoe

_MIN_AGREEMENT = 0.75
_MAX_RELATIVE_DIFFERENCE = 0.1  # of images whose routing agrees, in units of the largest logit


@dataclass(frozen=True)
class RoundedComparison:
    """A TensorRT graph in a type shorter than float32 against torch, at its profile.

    Attributes:
        graph: file name of the graph.
        profile: name of the profile, or None for a dense ViT.
        how: "onnxruntime" ran the file itself; "emulated" ran it in float32 with every result rounded, where ONNX Runtime's
            CPU has no products of that type.
        max_difference: largest absolute difference of logits (or features), over all images.
        agreement: by MoE layer, such as "encoderblock_1", share of the (token, choice) pairs that both keep at the same
            expert or both drop.
        images: number of images compared.
    """

    graph: str
    profile: str | None
    how: Literal["onnxruntime", "emulated"]
    max_difference: float
    agreement: dict[str, float]
    images: int


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
        compare(graph, profile, run_torch(model, images, profile), _run(folder / graph, images))
        for graph, profile in _settings(graphs, profiles)
    ]


def validate_rounded(
    model: Vmoe,
    folder: Path,
    graphs: Mapping[str, str],
    profiles: Sequence[Profile],
    batch_multiple: int,
    precision: TensorRtPrecision,
    atol: float | None,
) -> list[RoundedComparison]:
    """The same for graphs in fp16 or bf16, with a check of its own.

    Args:
        model, folder, graphs, profiles, batch_multiple: as for `validate_float32`.
        precision: of the graphs.
        atol: largest difference that is accepted over the images whose routing agrees in every layer. Default: a tenth of
            the largest logit.

    Raises:
        ExportError: values that are not finite, routing that agrees on less than 75 % of the pairs, or a difference above
            `atol`.
    """
    images = validation_images(model, batch_multiple)
    layers = [f"encoderblock_{i}" for i in (model.config.moe.layers if model.config.moe else ())]
    comparisons = []
    for graph, profile in _settings(graphs, profiles):
        expected = run_torch(model, images, profile)
        found = _run_emulated(folder / graph, images) if precision == "bf16" else _run(folder / graph, images)
        alike = pairs_alike(expected, found, profile) if profile else []
        _check(graph, precision, expected[0], found[0], alike, atol)
        comparisons.append(
            RoundedComparison(
                graph,
                profile.name if profile else None,
                "emulated" if precision == "bf16" else "onnxruntime",
                float(np.abs(expected[0] - found[0]).max()),
                {layer: float(np.mean(same)) for layer, same in zip(layers, alike, strict=True)},
                len(images),
            )
        )
    return comparisons


def _settings(graphs: Mapping[str, str], profiles: Sequence[Profile]) -> Iterable[tuple[str, Profile | None]]:
    for profile in profiles or (None,):
        yield graphs[profile.name if profile else DENSE_GRAPH_KEY], profile


def _check(graph: str, precision: str, expected: Array, found: Array, alike: list[Array], atol: float | None) -> None:
    if not np.isfinite(found).all():
        raise ExportError(
            f"validation failed: {graph} gives values that are not finite, since {precision} has no room for the model's; "
            "choose another --precision; no bundle was written"
        )
    agreement = float(np.mean(alike)) if alike else 1.0
    if agreement < _MIN_AGREEMENT:
        raise ExportError(
            f"validation failed: {graph} routes only {agreement:.2%} of the pairs as the torch model does; "
            "choose another --precision; no bundle was written"
        )
    same = np.all([layer.all(axis=1) for layer in alike], axis=0) if alike else np.ones(len(expected), bool)
    difference = float(np.abs(expected - found)[same].max(initial=0))
    limit = atol if atol is not None else _MAX_RELATIVE_DIFFERENCE * float(np.abs(expected).max())
    if difference > limit:
        raise ExportError(
            f"validation failed: {graph} differs from the torch model by {difference:.2e}, more than {limit:.2g}; "
            "choose another --precision or a larger --atol; no bundle was written"
        )


def _run(graph: Path, images: Array) -> list[Array]:
    from vmoe_runtime.backends.onnxruntime_cpu import OnnxRuntimeBackend

    return OnnxRuntimeBackend(graph).run({"image": images}, [])


def _run_emulated(graph: Path, images: Array) -> list[Array]:
    # Beside the weights, which it points into.
    emulation = graph.with_name(f"{graph.stem}.emulation.onnx")
    try:
        emulated = emulate_bfloat16(onnx.load(graph, load_external_data=False))
        emulation.write_bytes(emulated.SerializeToString(deterministic=True))
        return _run(emulation, images)
    finally:
        emulation.unlink(missing_ok=True)
