"""Compares a written bundle with its checkpoint: weights bit by bit, graphs part by part, and shorter types with float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vmoe_export.errors import OptionError
from vmoe_export.export_cost import GRAPH_IMAGES, ROUNDED_IMAGES
from vmoe_export.export_plan import ExportPlan
from vmoe_export.progress import ProgressHook
from vmoe_export.validation.limits import Limits, distance_limit, graph_limits, tensorrt_limits
from vmoe_measure.image_source import ImageSource, open_images
from vmoe_runtime.bundle.manifest import WEIGHTS_NAME
from vmoe_runtime.profiles import Profile

if TYPE_CHECKING:
    from vmoe_export.bundle.weights_file import Span
    from vmoe_export.graphs.graph_files import WrittenGraph
    from vmoe_export.validation.graph_parts import GraphParts
    from vmoe_export.validation.part_validation import Comparison
    from vmoe_export.validation.precision_distance import PrecisionDistance
    from vmoe_export.validation.reference_model import Array, ReferenceModel
    from vmoe_export.validation.reference_run import Step


@dataclass(frozen=True)
class ValidationOptions:
    """How a written bundle is checked.

    Attributes:
        atol: largest absolute difference between a part of a graph and the reference; None for what rounding explains.
        max_distance: largest relative difference between a part and float32; None for the limit of the precision.
        images: an npz file or folder of pictures on which to measure that difference; None for a few random images.

    Raises:
        OptionError: a limit is not a positive number.
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

    def checked(self, precision: str) -> ValidationOptions:
        """The same, for an export in that precision. Raises OptionError: images, and nothing to measure on them."""
        if self.images is not None and precision in ("fp32", "fp16"):
            raise OptionError("--images measures the distance from float32, and this export is in float32; omit it")
        return self


@dataclass(frozen=True)
class Findings:
    """The results of validation, and their limits.

    Attributes:
        limits: those of `comparisons`; None if nothing was validated.
        comparisons: each graph at each profile, compared with the reference in the same precision.
        distance_limit: largest allowed `part_difference` of `distances`; None if there are none.
        distances: for precisions other than fp32, that reference at each profile, compared with the one in float32.
        own_images: whether `distances` were measured on the user's images instead of random ones.
        tensorrt_limits: those of `tensorrt_comparisons`; None if there are none.
        tensorrt_comparisons: the TensorRT graphs, compared with the reference.
    """

    limits: Limits | None = None
    comparisons: tuple[Comparison, ...] = ()
    distance_limit: float | None = None
    distances: tuple[PrecisionDistance, ...] = ()
    own_images: bool = False
    tensorrt_limits: Limits | None = None
    tensorrt_comparisons: tuple[Comparison, ...] = ()


def open_validation_images(plan: ExportPlan, options: ValidationOptions) -> ImageSource | None:
    """The user's images, if there are any.

    Raises:
        OptionError: the export is in float32, and there is nothing to measure on them.
        ImageError: they can't be read.
    """
    images = options.checked(plan.options.precision).images
    if images is None:
        return None
    names = plan.options.class_names
    classes = plan.model.num_classes if plan.output == "logits" else None
    return open_images(images, None if names is None else tuple(names), classes)


def prove(
    plan: ExportPlan,
    folder: Path,
    spans: Mapping[str, Span],
    graphs: Sequence[WrittenGraph],
    tensorrt: Sequence[WrittenGraph],
    options: ValidationOptions,
    source: ImageSource | None,
    progress: ProgressHook,
) -> Findings:
    """Compares weights, graphs and rounding with the checkpoint.

    Args:
        plan: of the export.
        folder: where graphs and weights lie.
        spans: from `write_weights`.
        graphs: from `write_graphs`.
        tensorrt: from `write_tensorrt_graphs`; empty where there are none.
        options: the user's limits.
        source: from `open_validation_images`.
        progress: tells of each longer step.

    Raises:
        ExportError: something is beyond its limits.
        ImageError: the images don't fit the model.
    """
    # They import onnx, which planning doesn't wait for.
    from vmoe_export.validation.graph_parts import GraphParts
    from vmoe_export.validation.reference_model import ReferenceModel
    from vmoe_export.validation.reference_weights import check_stored_weights, stored_weights

    model, weights = plan.exported, folder / WEIGHTS_NAME
    with progress("reading the weights back", plan.weight_bytes) as advance:
        check_stored_weights(weights, spans, plan.checkpoint, plan.model, advance, calibrated=source is not None)
    stored = ReferenceModel(model, stored_weights(weights, spans))
    limits, products = graph_limits(model, options.atol), plan.tensorrt_precision
    of_tensorrt = tensorrt_limits(model, products, options.atol) if products else None
    held = [(GraphParts(folder, graph, model), limits) for graph in graphs]
    if of_tensorrt:
        held += [(GraphParts(folder, graph, model, emulate_bf16=products == "bf16"), of_tensorrt) for graph in tensorrt]
    found = _comparisons(plan, stored, held, progress)
    files = {graph.file for graph in graphs}
    findings = Findings(
        limits,
        tuple(each for each in found if each.graph in files),
        tensorrt_limits=of_tensorrt,
        tensorrt_comparisons=tuple(each for each in found if each.graph not in files),
    )
    if plan.stored_precision == "fp32":
        return findings
    limit = distance_limit(plan.stored_precision, options.max_distance)
    distances = tuple(_distances(plan, stored, source, limit, progress))
    return replace(findings, distance_limit=limit, distances=distances, own_images=source is not None)


def _comparisons(
    plan: ExportPlan, stored: ReferenceModel, held: Sequence[tuple[GraphParts, Limits]], progress: ProgressHook
) -> list[Comparison]:
    """Compares each graph with the reference at each profile, part by part."""
    from vmoe_export.validation.part_validation import PartValidation
    from vmoe_export.validation.reference_run import (
        at_scale_of_part,
        merging_alike,
        run_reference,
        validation_images,
        with_every_expert,
    )

    images = validation_images(stored.model, plan.grouping.batch_multiple, GRAPH_IMAGES)

    def comparisons(profiles: Sequence[Profile], advance: Callable[[float], None]) -> list[Comparison]:
        validation = PartValidation(stored.model, held, profiles, images)

        def compare(part: str, steps: list[Step]) -> None:
            steps = with_every_expert(stored, part, steps, profiles or (None,))
            validation.compare(part, at_scale_of_part(stored, part, steps, profiles or (None,)))
            advance(1)

        return validation.comparisons(run_reference(stored, images, profiles, compare))

    runs = merging_alike(plan.profiles)
    with progress("comparing the graphs with the reference", len(runs) * len(stored.model.parts)) as advance:
        return [each for alike in runs for each in comparisons(alike, advance)]


def _distances(
    plan: ExportPlan, stored: ReferenceModel, source: ImageSource | None, limit: float, progress: ProgressHook
) -> Sequence[PrecisionDistance]:
    """How far the model as stored is from float32, within the limit."""
    from vmoe_export.validation.precision_distance import check_distance, distance_from_float32, user_batches
    from vmoe_export.validation.reference_model import ReferenceModel
    from vmoe_export.validation.reference_run import merging_alike, validation_images
    from vmoe_export.validation.reference_weights import official_weights

    profiles, multiple = plan.profiles, plan.grouping.batch_multiple
    exact = ReferenceModel(stored.model, official_weights(plan.checkpoint, plan.model, plan.weight_shapes))

    def batches() -> Iterable[tuple[Array, Array | None]]:
        if source is None:
            return [(validation_images(stored.model, multiple, ROUNDED_IMAGES), None)]
        return user_batches(source, multiple, plan.input_spec, len(profiles))

    runs, images = merging_alike(profiles), -(-ROUNDED_IMAGES // multiple) * multiple if source is None else len(source)
    with progress("comparing with float32", 2 * len(runs) * len(stored.model.parts) * images) as advance:
        distances = [
            distance
            for alike in runs
            for distance in distance_from_float32(stored, exact, alike, batches(), advance, answers=source is not None)
        ]
    check_distance(distances, plan.stored_precision, limit)
    return distances
