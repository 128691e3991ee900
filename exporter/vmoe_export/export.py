"""Export a checkpoint to a bundle. The steps are planning, writing and validation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vmoe_export.bundle.bundle_writer import CARD_NAME, new_bundle, write_manifest
from vmoe_export.bundle.manifest import manifest_of
from vmoe_export.bundle.model_card import model_card
from vmoe_export.errors import OptionError
from vmoe_export.export_plan import ExportPlan, plan_export
from vmoe_export.options.export_options import ExportOptions
from vmoe_export.precision import PRECISIONS
from vmoe_export.progress import ProgressHook, untold
from vmoe_export.remote_checkpoint import checkpoint_at
from vmoe_export.validation.findings import Findings
from vmoe_export.validation.options import ValidationOptions
from vmoe_runtime.bundle.manifest import DENSE_GRAPH_KEY, WEIGHTS_NAME

_GRAPH_BYTES = 4 << 20
_USUAL_LIMITS = ValidationOptions()


@dataclass(frozen=True, kw_only=True)
class ExportResult(Findings):
    """A written bundle, and the results of its validation.

    Attributes:
        path: the bundle.
        plan: the plan of the export.
        tensorrt: the file name of each TensorRT graph, by profile name. For a dense ViT without profiles, the only key is
            "model".
    """

    path: Path
    plan: ExportPlan
    tensorrt: Mapping[str, str] = field(default_factory=dict)


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
    """Export a checkpoint to a bundle.

    Args:
        checkpoint: a path for `open_checkpoint`, or a URL such as gs://bucket/b16.
        path: the bundle's folder, such as `b16.vmoe`.
        options: the options of the export. The fields of ExportOptions can be passed as keyword arguments instead.
        validate: whether to read the weights back, run each part of the written graphs in ONNX Runtime, and compare the
            results with a reference.
        atol: largest allowed absolute difference between the results of a part of a graph and those of the reference.
            Default: the difference that rounding explains.
        max_distance: largest allowed relative difference between the results of a part of the model and the results of the
            same part in float32. Default: the limit for the precision.
        images: an npz file or a folder of pictures, used to measure the difference from float32. See
            `vmoe_measure.image_source.open_images`. The rounding of int4 weights is also optimized for the first 128 images.
            Default: the difference is measured on a few random images, and int4 weights are rounded plainly.
        force: whether an existing bundle may be replaced.
        fields: fields of ExportOptions, if `options` is None.

    Raises:
        VmoeError: the export failed, and nothing was written.

    Examples:
        >>> result = export_bundle("samples/mnist/vmoe_mnist", folder / "mnist.vmoe", capacity=[0.3], k=[1])
        >>> [profile.name for profile in result.plan.profiles]
        ['c0.3-k1']
    """
    if options is not None and fields:
        raise OptionError(f"{', '.join(fields)} can't be combined with options; put all fields into the ExportOptions")
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
    progress: ProgressHook = untold,
) -> ExportResult:
    """Write a bundle according to a plan. If any step fails, leave no files behind.

    Args:
        plan: a result of `plan_export`.
        target: the bundle's folder.
        validation: how to check the written graphs; None skips the check.
        force: whether an existing bundle may be replaced.
        progress: reports each longer step.

    Raises:
        ExportError: the bundle cannot be written, or validation failed.
        CheckpointError: the checkpoint is damaged.
        ImageError: the validation images cannot be read, or do not fit the model.
    """
    # Import onnx late, because it is slow to import and planning doesn't need it.
    from vmoe_export.bundle.weights_file import write_weights
    from vmoe_export.calibration import calibrate
    from vmoe_export.graphs.graph_files import write_graphs, write_tensorrt_graphs
    from vmoe_export.validation.proof import prove

    sources = _sources(plan, validation)
    images = validation.open_images(plan) if validation else None
    model, stored, products = plan.exported, plan.stored_precision, plan.tensorrt_precision
    needed = plan.weight_bytes + _GRAPH_BYTES * (2 if products else 1)
    with new_bundle(target, force=force, needed_bytes=needed, sources=sources) as folder:
        with progress("writing the weights", plan.weight_bytes) as advance:
            spans = write_weights(
                folder / WEIGHTS_NAME, plan.checkpoint, plan.model, plan.weight_shapes, advance, plan.options.precision
            )
        if images is not None and PRECISIONS[stored].is_calibrated:
            with progress("rounding the experts for the images", len(model.parts)) as advance:
                calibrate(folder / WEIGHTS_NAME, spans, plan, images, advance)
        with progress("writing the graphs", 1):
            graphs = write_graphs(folder, model, spans, plan.profiles)
            tensorrt = write_tensorrt_graphs(folder, model, spans, plan.profiles, products) if products else []
        findings = prove(plan, folder, spans, graphs, tensorrt, validation, images, progress) if validation else Findings()
        files = {graph.profile.name if graph.profile else DENSE_GRAPH_KEY: graph.file for graph in tensorrt}
        content = manifest_of(plan, files, findings)
        manifest = write_manifest(folder, content)
        # The manifest doesn't list the model card, because users edit the card and bundle readers never open it.
        (folder / CARD_NAME).write_text(model_card(content, manifest), "utf-8")
    return ExportResult(path=target, plan=plan, tensorrt=files, **vars(findings))


def _sources(plan: ExportPlan, validation: ValidationOptions | None) -> list[Path]:
    """Return the paths that the export reads."""
    config, images = plan.options.config, validation.images if validation else None
    given = [path for path in (config, images) if isinstance(path, str | os.PathLike)]
    return [plan.checkpoint.path, *plan.checkpoint.files, *map(Path, given)]
