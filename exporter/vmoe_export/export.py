"""From a checkpoint to a bundle: plan first, then write, then prove."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmoe_export.bundle.bundle_writer import CARD_NAME, new_bundle, write_manifest
from vmoe_export.bundle.model_card import model_card
from vmoe_export.bundle_manifest import manifest_of
from vmoe_export.errors import OptionError
from vmoe_export.export_options import ExportOptions
from vmoe_export.export_plan import ExportPlan, plan_export
from vmoe_export.model.exported_model import ExportedModel
from vmoe_export.remote_checkpoint import checkpoint_at
from vmoe_export.validation.proof import Findings, StageHook, ValidationOptions, open_validation_images, prove
from vmoe_runtime.bundle.manifest import DENSE_GRAPH_KEY, WEIGHTS_NAME

if TYPE_CHECKING:
    from vmoe_export.graphs.graph_files import WrittenGraph

_GRAPH_BYTES = 4 << 20
_USUAL_LIMITS = ValidationOptions()


@dataclass(frozen=True, kw_only=True)
class ExportResult(Findings):
    """A written bundle, and what validation found.

    Attributes:
        path: the bundle.
        plan: what was exported.
        tensorrt: graph files for TensorRT by profile, or by "model" for a dense ViT.
    """

    path: Path
    plan: ExportPlan
    tensorrt: Mapping[str, str] = field(default_factory=dict)


ProgressHook = Callable[[str, int], None]


def export_bundle(
    checkpoint: str | os.PathLike[str],
    path: str | os.PathLike[str],
    options: ExportOptions | None = None,
    *,
    validate: bool = True,
    atol: float | None = None,
    max_distance: float | None = None,
    images: str | os.PathLike[str] | None = None,
    force: bool = False,
    **fields: Any,
) -> ExportResult:
    """Exports a checkpoint to a bundle.

    Args:
        checkpoint: what `open_checkpoint` takes, or its address, such as gs://bucket/b16.
        path: the bundle's folder, such as `b16.vmoe`.
        options: what to export; its fields may be given as keyword arguments instead.
        validate: read the weights back, and run each part of the written graphs in ONNX Runtime beside the reference.
        atol: largest absolute difference of a part of a graph that validation accepts. Default: what rounding explains.
        max_distance: largest relative difference of a part from float32 that validation accepts. Default: what the
            precision says.
        images: an npz file or folder of pictures, see `vmoe_measure.image_source.open_images`, to measure the distance from
            float32 on. Default: a few random images.
        force: replace a bundle that is already there.
        fields: fields of ExportOptions, where `options` isn't given.

    Raises:
        VmoeError: nothing was written.

    Examples:
        >>> result = export_bundle("samples/mnist/vmoe_mnist", folder / "mnist.vmoe", capacity=[0.3], k=[1])
        >>> [profile.name for profile in result.plan.profiles]
        ['c0.3-k1']
    """
    if options is not None and fields:
        raise OptionError(f"{', '.join(fields)} can't be given beside options; put all fields into the ExportOptions")
    if options is not None and not isinstance(options, ExportOptions):
        raise OptionError(f"options is {options!r:.40}, but must be an ExportOptions")
    if images is not None and not isinstance(images, str | os.PathLike):
        raise OptionError(f"images is {images!r:.40}, but must be the path of an npz file or a folder")
    checks = ValidationOptions(atol, max_distance, None if images is None else Path(images))
    with checkpoint_at(checkpoint) as opened:
        plan = plan_export(opened, ExportOptions(**fields) if options is None else options)
        return write_bundle(plan, Path(path), validation=checks if validate else None, force=force)


def write_bundle(
    plan: ExportPlan,
    target: Path,
    *,
    validation: ValidationOptions | None = _USUAL_LIMITS,
    force: bool = False,
    progress: ProgressHook = lambda name, size: None,
    stage: StageHook = lambda text: None,
) -> ExportResult:
    """Writes the bundle of a plan, whole or not at all.

    Args:
        plan: from `plan_export`.
        target: the bundle's folder.
        validation: how the written graphs are checked, or None for not at all.
        force: as in `export_bundle`.
        progress: called with name and bytes after each tensor.
        stage: called with a few words before each longer step.

    Raises:
        ExportError: the bundle can't be written, or validation failed.
        CheckpointError: the checkpoint turned out damaged.
        ImageError: the images to validate on can't be read, or don't fit the model.
    """
    # onnx takes a while to import; planning and its errors don't wait for it.
    from vmoe_export.bundle.weights_file import write_weights
    from vmoe_export.calibration import calibrate, is_calibrated
    from vmoe_export.graphs.graph_files import write_graphs, write_tensorrt_graphs

    sources = _sources(plan, validation)
    images = open_validation_images(plan, validation) if validation else None
    tensorrt: list[WrittenGraph] = []
    findings = Findings()
    stored = plan.stored_precision
    model = ExportedModel(plan.model, plan.grouping.tokens, plan.output, plan.input == "uint8", stored)
    needed = plan.weight_bytes + _GRAPH_BYTES * (2 if plan.tensorrt_precision else 1)
    with new_bundle(target, force=force, needed_bytes=needed, sources=sources) as folder:
        spans = write_weights(folder / WEIGHTS_NAME, plan.checkpoint, plan.model, plan.weight_shapes, progress, stored)
        if images is not None and is_calibrated(stored):
            stage("rounding the experts for the images")
            calibrate(folder / WEIGHTS_NAME, spans, plan, model, images)
        stage("writing the graphs")
        graphs = write_graphs(folder, model, plan.grouping, spans, plan.profiles)
        if products := plan.tensorrt_precision:
            stage("writing the TensorRT graphs")
            tensorrt = write_tensorrt_graphs(folder, model, plan.grouping, spans, plan.profiles, products)
        if validation:
            findings = prove(plan, model, folder, spans, graphs, tensorrt, validation, images, stage)
        stage("writing the manifest")
        files = {graph.profile.name if graph.profile else DENSE_GRAPH_KEY: graph.file for graph in tensorrt}
        content = manifest_of(plan, files, findings)
        manifest = write_manifest(folder, content)
        # Not in the manifest's list of files: people complete it, and no reader opens it.
        (folder / CARD_NAME).write_text(model_card(content, manifest), "utf-8")
    return ExportResult(path=target, plan=plan, tensorrt=files, **vars(findings))


def _sources(plan: ExportPlan, validation: ValidationOptions | None) -> list[Path]:
    """What the export reads."""
    config, images = plan.options.config, validation.images if validation else None
    given = [path for path in (config, images) if isinstance(path, str | os.PathLike)]
    return [plan.checkpoint.path, *plan.checkpoint.files, *map(Path, given)]
