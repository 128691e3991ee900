"""Compare a written bundle with its checkpoint, and shorter types with float32.

Weights are compared bit by bit, and graphs part by part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vmoe_export.bundle.weights_file import Span
from vmoe_export.export_cost import GRAPH_IMAGES, ROUNDED_IMAGES
from vmoe_export.export_plan import ExportPlan
from vmoe_export.graphs.graph_files import WrittenGraph
from vmoe_export.progress import ProgressHook
from vmoe_export.validation.findings import Findings, PrecisionDistance
from vmoe_export.validation.graph_parts import GraphParts
from vmoe_export.validation.limits import distance_limit, graph_limits, tensorrt_limits
from vmoe_export.validation.options import ValidationOptions
from vmoe_export.validation.part_validation import PartValidation
from vmoe_export.validation.precision_distance import check_distance, distance_from_float32, user_batches
from vmoe_export.validation.reference_model import Array, ReferenceModel
from vmoe_export.validation.reference_run import merging_alike, validation_images
from vmoe_export.validation.reference_weights import check_stored_weights, official_weights, stored_weights
from vmoe_measure.image_source import ImageSource
from vmoe_runtime.bundle.manifest import WEIGHTS_NAME


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
    """Compare the weights and the graphs with the checkpoint, and measure the effect of rounding.

    Args:
        plan: the plan of the export.
        folder: the folder of the graphs and weights.
        spans: the positions of the tensors, from `write_weights`.
        graphs: the graphs from `write_graphs`.
        tensorrt: the graphs from `write_tensorrt_graphs`. There may be none.
        options: the user's limits.
        source: the user's images, from `options.open_images`. If it is None, random images are used.
        progress: reports each longer step.

    Raises:
        ExportError: a comparison exceeds its limits.
        ImageError: the images don't fit the model.
    """
    model, weights = plan.exported, folder / WEIGHTS_NAME
    with progress("reading the weights back", plan.weight_bytes) as advance:
        check_stored_weights(weights, spans, plan.checkpoint, plan.model, advance, calibrated=source is not None)
    stored = ReferenceModel(model, stored_weights(weights, spans))
    limits, products = graph_limits(model, options.atol), plan.tensorrt_precision
    of_tensorrt = tensorrt_limits(model, products, options.atol) if products else None
    held = [(GraphParts(folder, graph, model), limits) for graph in graphs]
    if of_tensorrt:
        held += [(GraphParts(folder, graph, model, emulate=products != "fp32"), of_tensorrt) for graph in tensorrt]
    images, runs = validation_images(model, plan.grouping.batch_multiple, GRAPH_IMAGES), merging_alike(plan.profiles)
    with progress("comparing the graphs with the reference", len(runs) * len(model.parts)) as advance:
        found = [each for profiles in runs for each in PartValidation(stored, held, profiles, images, advance).run()]
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


def _distances(
    plan: ExportPlan, stored: ReferenceModel, source: ImageSource | None, limit: float, progress: ProgressHook
) -> Sequence[PrecisionDistance]:
    """Measure how far the stored model is from the float32 model, and check the limit."""
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
