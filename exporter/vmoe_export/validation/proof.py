"""Proves a written bundle: what is compared with what, in which order, and what was found."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vmoe_export.errors import OptionError
from vmoe_export.export_plan import ExportPlan
from vmoe_export.validation.graph_validation import Comparison, check_graphs, validate_fixed_graphs, validate_graphs
from vmoe_export.validation.limits import Limits, distance_limit, graph_limits, rounded_limits
from vmoe_export.validation.reference import GRAPH_IMAGES, ROUNDED_IMAGES, Reference
from vmoe_measure.image_source import ImageSource, open_images
from vmoe_runtime.bundle.manifest import CANONICAL_GRAPH, INLINED_GRAPH

if TYPE_CHECKING:
    from vmoe_export.model.torch_model import Vmoe
    from vmoe_export.validation.precision_distance import PrecisionDistance
    from vmoe_export.validation.tensorrt_validation import RoundedComparison

StageHook = Callable[[str], object]


@dataclass(frozen=True)
class ValidationOptions:
    """How a written bundle is checked.

    Attributes:
        atol: largest difference of logits between a graph and torch; None for what the precision says.
        max_distance: largest relative difference from float32; None for what the precision says.
        images: an npz file or folder of pictures to measure that difference on; None for a few random images.

    Raises:
        OptionError: a number that is no limit.
    """

    atol: float | None = None
    max_distance: float | None = None
    images: Path | None = None

    def __post_init__(self) -> None:
        for name in ("atol", "max_distance"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (number and math.isfinite(value) and value > 0):
                raise OptionError(f"{name} must be a positive number, not {value!r:.40}")


@dataclass(frozen=True)
class Findings:
    """What validation found, and what it would have refused.

    Attributes:
        limits: of `comparisons`; None where nothing was validated.
        comparisons: each graph at each profile against the torch model of the same precision.
        distance_limit: largest relative difference of `distances`; None where there are none.
        distances: for other precisions than fp32, that torch model at each profile against the one in float32.
        own_images: whether `distances` are on the user's images and not on random ones.
        rounded_limits: of `rounded`; None where there are none.
        rounded: the TensorRT graphs against torch, where they are in fp16 or bf16.
    """

    limits: Limits | None = None
    comparisons: tuple[Comparison, ...] = ()
    distance_limit: float | None = None
    distances: tuple[PrecisionDistance, ...] = ()
    own_images: bool = False
    rounded_limits: Limits | None = None
    rounded: tuple[RoundedComparison, ...] = ()


def open_validation_images(plan: ExportPlan, options: ValidationOptions) -> ImageSource | None:
    """The user's images, if there are any.

    Raises:
        OptionError: the export is in float32, and there is nothing to measure on them.
        ImageError: they can't be read.
    """
    if options.images is None:
        return None
    if plan.stored_precision == "fp32":
        raise OptionError("--images measures the distance from float32, and this export is in float32; leave it out")
    names = plan.options.class_names
    classes = plan.model.num_classes if plan.output == "logits" else None
    return open_images(options.images, None if names is None else tuple(names), classes)


def prove(
    plan: ExportPlan,
    model: Vmoe,
    folder: Path,
    tensorrt: Mapping[str, str],
    options: ValidationOptions,
    source: ImageSource | None,
    stage: StageHook,
) -> Findings:
    """Compares the written graphs with torch, and torch with float32.

    Args:
        plan: of the export.
        model: the torch model with its stored weights.
        folder: where graphs and weights lie.
        tensorrt: from `write_tensorrt_graphs`; empty where there are none.
        options: the user's limits.
        source: from `open_validation_images`.
        stage: called with a few words before each longer step.

    Raises:
        ExportError: something is beyond its limits.
        ImageError: the images don't fit the model.
    """
    # They import torch and onnx, which planning doesn't wait for.
    from vmoe_export.validation.precision_distance import check_distance, distance_from_float32
    from vmoe_export.validation.tensorrt_validation import check_rounded, validate_rounded

    stored, profiles, multiple, moe = plan.stored_precision, plan.profiles, plan.grouping.batch_multiple, plan.model.moe
    rounded_products = None if plan.tensorrt_precision == "fp32" else plan.tensorrt_precision
    limits = graph_limits(stored, dispatch_bf16=bool(moe and moe.dispatch_bf16), atol=options.atol)
    few = rounded_products is None and (stored == "fp32" or source is not None)
    reference = Reference(model, multiple, GRAPH_IMAGES if few else ROUNDED_IMAGES)
    stage("comparing with torch")
    comparisons = validate_graphs(reference, folder, (CANONICAL_GRAPH, INLINED_GRAPH), profiles)
    if plan.tensorrt_precision == "fp32":
        comparisons += validate_fixed_graphs(reference, folder, tensorrt, profiles)
    check_graphs(comparisons, limits)
    findings = Findings(limits, tuple(comparisons))
    if rounded_products is not None:
        stage("comparing the TensorRT graphs with torch")
        rounded = validate_rounded(reference, folder, tensorrt, profiles, rounded_products)
        limits = rounded_limits(rounded_products, options.atol)
        check_rounded(rounded, rounded_products, limits)
        findings = replace(findings, rounded_limits=limits, rounded=tuple(rounded))
    if stored != "fp32":
        stage("comparing with float32")
        distances = distance_from_float32(reference, plan.checkpoint, profiles, multiple, plan.input_spec, source)
        limit = distance_limit(stored, options.max_distance)
        check_distance(distances, stored, limit)
        findings = replace(findings, distance_limit=limit, distances=tuple(distances), own_images=source is not None)
    return findings
