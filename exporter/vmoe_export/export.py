"""From a checkpoint to a bundle: plan first, then write, then prove."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from vmoe_export import __version__
from vmoe_export.bundle.bundle_target import check_target
from vmoe_export.bundle.bundle_writer import new_bundle, write_manifest
from vmoe_export.checkpoint import open_checkpoint
from vmoe_export.errors import OptionError
from vmoe_export.export_options import ExportFields, ExportOptions
from vmoe_export.export_plan import ExportPlan, plan_export
from vmoe_export.precision import PRECISIONS, Limits, graph_limits
from vmoe_export.validation.graph_validation import Comparison, check, validate
from vmoe_runtime.bundle.manifest import (
    CANONICAL_GRAPH,
    FORMAT,
    FORMAT_VERSION,
    INLINED_GRAPH,
    WEIGHTS_NAME,
)
from vmoe_runtime.image_source import ImageSource, open_images
from vmoe_runtime.routing_kinds import SoftRules

if TYPE_CHECKING:
    from vmoe_export.model.torch_model import Vmoe
    from vmoe_export.validation.precision_distance import PrecisionDistance
    from vmoe_export.validation.tensorrt_validation import RoundedComparison

_GRAPH_BYTES = 4 << 20


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
        rounded_limits: of `rounded`; None where there are none.
        rounded: the TensorRT graphs against torch, where they are in fp16 or bf16.
    """

    limits: Limits | None = None
    comparisons: tuple[Comparison, ...] = ()
    distance_limit: float | None = None
    distances: tuple[PrecisionDistance, ...] = ()
    rounded_limits: Limits | None = None
    rounded: tuple[RoundedComparison, ...] = ()


@dataclass(frozen=True)
class ExportResult:
    """A written bundle, and what validation found.

    Attributes:
        path: the bundle.
        plan: what was exported.
        findings: of validation.
        tensorrt: graph files for TensorRT by profile, or by "model" for a dense ViT.
    """

    path: Path
    plan: ExportPlan
    findings: Findings = Findings()
    tensorrt: Mapping[str, str] = field(default_factory=dict)

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Each graph at each profile against the torch model of the same precision."""
        return self.findings.comparisons

    @property
    def distances(self) -> tuple[PrecisionDistance, ...]:
        """For other precisions than fp32, that torch model at each profile against the one in float32."""
        return self.findings.distances

    @property
    def rounded(self) -> tuple[RoundedComparison, ...]:
        """The TensorRT graphs against torch, where they are in fp16 or bf16."""
        return self.findings.rounded


ProgressHook = Callable[[str, int], None]
StageHook = Callable[[str], AbstractContextManager[Any]]


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
    **fields: Unpack[ExportFields],
) -> ExportResult:
    """Exports a checkpoint to a bundle.

    Args:
        checkpoint: what `open_checkpoint` takes.
        path: the bundle's folder, such as `b16.vmoe`.
        options: what to export; its fields may be given as keyword arguments instead.
        validate: run the written graphs in ONNX Runtime and compare them with the torch model.
        atol: largest difference of logits that validation accepts between a graph and torch. Default: what the precision
            says, 1e-4 for fp32.
        max_distance: largest relative difference from float32 that validation accepts. Default: what the precision says.
        images: an npz file or folder of pictures, see `vmoe_runtime.image_source.open_images`, to measure the distance from
            float32 on. Default: a few random images.
        force: replace a bundle that is already there.
        fields: fields of ExportOptions, where `options` isn't given.

    Raises:
        VmoeError: nothing was written.

    Example:
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
    with open_checkpoint(checkpoint) as opened:
        plan = plan_export(opened, ExportOptions(**fields) if options is None else options)
        return write_bundle(plan, Path(path), validation=checks if validate else None, force=force)


def write_bundle(
    plan: ExportPlan,
    target: Path,
    *,
    validation: ValidationOptions | None = ValidationOptions(),
    force: bool = False,
    progress: ProgressHook = lambda name, size: None,
    stage: StageHook = lambda text: nullcontext(),
) -> ExportResult:
    """Writes the bundle of a plan, whole or not at all.

    Args:
        plan: from `plan_export`.
        target: the bundle's folder.
        validation: how the written graphs are checked, or None for not at all.
        force: as in `export_bundle`.
        progress: called with name and bytes after each tensor.
        stage: called with a few words before each longer step; the context lasts as long as the step.

    Raises:
        ExportError: the bundle can't be written, or validation failed.
        CheckpointError: the checkpoint turned out damaged.
        ImageError: the images to validate on can't be read, or don't fit the model.
    """
    # torch takes seconds to import; planning and its errors don't wait for it.
    from vmoe_export.bundle.weights_file import write_weights
    from vmoe_export.graphs.graph_files import write_graphs, write_tensorrt_graphs
    from vmoe_export.model.torch_model import Vmoe

    sources = _sources(plan, validation)
    check_target(target, force=force, sources=sources)
    source = _validation_images(plan, validation) if validation else None
    model, stored = plan.model, plan.stored_precision
    tensorrt: dict[str, str] = {}
    findings = Findings()
    needed = plan.weight_bytes + _GRAPH_BYTES * (2 if plan.tensorrt_precision else 1)
    with new_bundle(target, force=force, needed_bytes=needed, sources=sources) as folder:
        spans = write_weights(folder / WEIGHTS_NAME, plan.checkpoint, model, plan.weight_shapes, progress, stored)
        network = Vmoe(
            model,
            plan.grouping.tokens,
            output=plan.output,
            uint8_input=plan.input == "uint8",
            precision=stored,
        ).load_weights(folder / WEIGHTS_NAME)
        with stage("tracing the graph"):
            canonical = write_graphs(folder, network, plan.grouping, spans, next(iter(plan.profiles), None))
        if plan.tensorrt_precision is not None:
            with stage("writing the TensorRT graphs"):
                tensorrt = write_tensorrt_graphs(
                    folder, canonical, plan.profiles, plan.tensorrt_precision, model.hidden_size
                )
        if validation:
            findings = _validate(plan, network, folder, tensorrt, validation, source, stage)
        with stage("writing the manifest"):
            write_manifest(folder, _manifest(plan, tensorrt, findings))
    return ExportResult(target, plan, findings, tensorrt)


def _sources(plan: ExportPlan, validation: ValidationOptions | None) -> list[Path]:
    """What the export reads."""
    config, images = plan.options.config, validation.images if validation else None
    given = [path for path in (config, images) if isinstance(path, str | os.PathLike)]
    return [plan.checkpoint.path, *plan.checkpoint.files, *map(Path, given)]


def _validation_images(plan: ExportPlan, validation: ValidationOptions) -> ImageSource | None:
    """The user's images, opened before anything is written."""
    if validation.images is None:
        return None
    if plan.stored_precision == "fp32":
        raise OptionError("--images measures the distance from float32, and this export is in float32; leave it out")
    names = plan.options.class_names
    classes = plan.model.num_classes if plan.output == "logits" else None
    return open_images(validation.images, None if names is None else tuple(names), classes)


def _validate(
    plan: ExportPlan,
    network: Vmoe,
    folder: Path,
    tensorrt: Mapping[str, str],
    validation: ValidationOptions,
    source: ImageSource | None,
    stage: StageHook,
) -> Findings:
    """Compares the written graphs with torch, and torch with float32."""
    from vmoe_export.validation.precision_distance import check_distance, distance_from_float32
    from vmoe_export.validation.tensorrt_validation import check_rounded, rounded_limits, validate_float32, validate_rounded

    stored, profiles, multiple, product_type = (
        plan.stored_precision, plan.profiles, plan.grouping.batch_multiple, plan.tensorrt_precision,
    )  # fmt: skip
    moe = plan.model.moe
    limits = graph_limits(stored, dispatch_bf16=bool(moe and moe.dispatch_bf16), atol=validation.atol)
    rounded: list[RoundedComparison] = []
    distances: list[PrecisionDistance] = []
    limits_of_rounded: Limits | None = None
    distance_limit: float | None = None
    with stage("comparing with torch"):
        comparisons = validate(network, folder, (CANONICAL_GRAPH, INLINED_GRAPH), profiles, multiple)
        if product_type == "fp32":
            comparisons += validate_float32(network, folder, tensorrt, profiles, multiple)
    check(comparisons, limits)
    if product_type is not None and product_type != "fp32":
        with stage("comparing the TensorRT graphs with torch"):
            rounded = validate_rounded(network, folder, tensorrt, profiles, multiple, product_type)
        limits_of_rounded = rounded_limits(product_type, validation.atol)
        check_rounded(rounded, product_type, limits_of_rounded)
    if stored != "fp32":
        with stage("comparing with float32"):
            distances = distance_from_float32(network, plan.checkpoint, profiles, multiple, plan.input_spec, source)
        given = validation.max_distance
        distance_limit = PRECISIONS[stored].max_distance if given is None else given
        check_distance(distances, stored, distance_limit)
    return Findings(limits, tuple(comparisons), distance_limit, tuple(distances), limits_of_rounded, tuple(rounded))


def _manifest(
    plan: ExportPlan,
    tensorrt: Mapping[str, str],
    findings: Findings,
) -> dict[str, Any]:
    model, checkpoint = plan.model, plan.checkpoint
    height, width = model.image_size
    names = plan.options.class_names
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "producer": {"name": "vmoe-export", "version": __version__},
        "source": {
            "name": os.fsencode(checkpoint.path.name).decode(errors="replace"),
            "format": checkpoint.format,
            "sha256": checkpoint.sha256(),
        },
        "model": model.to_json(),
        "input": {
            "name": "image",
            "dtype": plan.input,
            "height": height,
            "width": width,
            "channels": model.channels,
        },
        "preprocessing": {"steps": str(plan.preprocessing)},
        "output": {
            "name": plan.output,
            "size": model.feature_size if plan.output == "features" else model.num_classes,
        },
        "class_names": None if names is None else list(names),
        "routing": _routing(plan),
        "precision": plan.stored_precision,
        "batch_multiple": plan.grouping.batch_multiple,
        "profiles": [
            {name: value for name, value in asdict(profile).items() if value is not None} for profile in plan.profiles
        ],
        "graphs": {"canonical": CANONICAL_GRAPH, "inlined": INLINED_GRAPH},
        **({"tensorrt": {"precision": plan.tensorrt_precision, "graphs": dict(tensorrt)}} if tensorrt else {}),
        "flops_per_image": {
            "dense": plan.dense_flops,
            **{profile.name: plan.flops(profile) for profile in plan.profiles},
        },
        "validation": {
            "atol": findings.limits.difference,
            "relative_limit": findings.limits.relative,
            "comparisons": [asdict(comparison) for comparison in findings.comparisons],
            "distance_from_fp32": [asdict(distance) for distance in findings.distances],
            **({"tensorrt": [asdict(comparison) for comparison in findings.rounded]} if findings.rounded else {}),
        }
        if findings.limits
        else None,
    }


def _routing(plan: ExportPlan) -> dict[str, Any] | None:
    rules = plan.rules
    if rules is None:
        return None
    assert plan.model.moe is not None
    entry: dict[str, Any] = {
        "kind": rules.kind,
        "num_experts": rules.num_experts,
        "layers": [f"encoderblock_{i}" for i in plan.model.moe.layers],
        "group": plan.grouping.name,
        "group_tokens": rules.group_tokens,
    }
    if isinstance(rules, SoftRules):
        return entry | {"slots_per_expert": rules.slots_per_expert}
    entry |= {"rounding": rules.rounding, "capacity_multiple_of": rules.capacity_multiple_of}
    return entry | ({"ensemble_size": rules.ensemble_size} if rules.ensemble_size > 1 else {})
