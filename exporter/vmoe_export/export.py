"""From a checkpoint to a bundle: plan first, then write, then prove."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vmoe_export import __version__
from vmoe_export.bundle_writer import check_target, new_bundle, write_manifest
from vmoe_export.checkpoint import Checkpoint, open_checkpoint
from vmoe_export.errors import CheckpointError, ConfigError, OptionError
from vmoe_export.flops import dense_flops, sparse_flops
from vmoe_export.grouping import Grouping, parse_group
from vmoe_export.model_config import ModelConfig, describe_model, load_config
from vmoe_export.parameters import check_parameters, stored_parameters, stored_tensors
from vmoe_export.precision import PRECISIONS, ExportPrecision, Limits, graph_limits, stored_precision
from vmoe_export.validation import Comparison, check, validate
from vmoe_runtime.capacity import Rounding
from vmoe_runtime.manifest import (
    CANONICAL_GRAPH,
    FORMAT,
    FORMAT_VERSION,
    INLINED_GRAPH,
    WEIGHTS_NAME,
    Precision,
)
from vmoe_runtime.profiles import Profile, RoutingRules

if TYPE_CHECKING:
    from vmoe_export.precision_distance import PrecisionDistance
    from vmoe_export.tensorrt_validation import RoundedComparison

_GRAPH_BYTES = 4 << 20


@dataclass(frozen=True)
class ExportOptions:
    """What the user may choose. Fields that are None take the config's value, or else the default.

    Attributes:
        capacity: capacity ratios; with `k`, their product gives the profiles. Default: the training ratio, or 1.05.
        k: experts per token. Default: the training k, or 2.
        bpr: Batch Priority Routing (True) or vanilla order (False) for the stored profiles.
        group: "image", "batch", a number of images, or "tokens:S".
        batch: images per batch, which the group must divide; needed by group "batch".
        config: official model config (a mapping, or the path of a JSON file).
        image_size: (height, width) in pixels.
        rounding, capacity_multiple_of: how a ratio becomes places; official defaults "ceil" and (here) 1.
        dispatch_bf16: round expert inputs and outputs to bfloat16, as the official configs do.
        precision: "fp32", or "bf16" to store the expert weights in bfloat16 and round what they are multiplied with. With
            `tensorrt` it also says what the large products of the TensorRT graphs are computed in, and may be "fp16".
        tensorrt: write a graph for TensorRT for each profile.
        input: "float32" in [-1, 1], or "uint8", scaled inside the graph.
        output: "logits" or "features".
        class_names: names of the classes.

    Raises:
        OptionError: a field of the wrong type, or not one of its choices.
    """

    capacity: Sequence[float] | None = None
    k: Sequence[int] | None = None
    bpr: bool = True
    group: str = "image"
    batch: int | None = None
    config: dict[str, Any] | str | os.PathLike[str] | None = None
    image_size: tuple[int, int] | None = None
    rounding: Rounding | None = None
    capacity_multiple_of: int | None = None
    dispatch_bf16: bool | None = None
    precision: ExportPrecision = "fp32"
    tensorrt: bool = False
    input: Literal["float32", "uint8"] = "float32"
    output: Literal["logits", "features"] = "logits"
    class_names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name, allowed in (
            ("precision", tuple(PRECISIONS)),
            ("tensorrt", (True, False)),
            ("input", ("float32", "uint8")),
            ("output", ("logits", "features")),
            ("rounding", (None, "ceil", "round")),
            ("bpr", (True, False)),
            ("dispatch_bf16", (None, True, False)),
        ):
            if getattr(self, name) not in allowed:
                raise OptionError(f"{name} is {getattr(self, name)!r:.40}, not one of {', '.join(map(str, allowed))}")
        for name, kind, text in (
            ("capacity", Sequence, "a sequence of ratios, such as [0.3]"),
            ("k", Sequence, "a sequence of numbers, such as [1]"),
            ("group", str, "text, such as 'image' or '16'"),
            ("batch", int, "a number of images"),
            ("capacity_multiple_of", int, "a whole number"),
            ("image_size", tuple, "(height, width)"),
            ("config", dict | str | os.PathLike, "a mapping or the path of a JSON file"),
            ("class_names", Sequence, "a sequence of names"),
        ):
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise OptionError(f"{name} is {value!r:.40}, but must be {text}")
        if self.capacity_multiple_of is not None and self.capacity_multiple_of < 1:
            raise OptionError(f"capacity_multiple_of must be at least 1, not {self.capacity_multiple_of}")
        size = self.image_size
        if size is not None and not (len(size) == 2 and all(isinstance(n, int) and 0 < n < 100_000 for n in size)):
            raise OptionError(f"image_size is {size!r:.40}, but must be (height, width) in pixels")

        if self.precision == "fp16" and not self.tensorrt:
            raise OptionError("precision fp16 is for the graphs that TensorRT runs; add --tensorrt, or choose fp32 or bf16")
        if self.tensorrt and PRECISIONS[self.precision].tensorrt is None:
            raise OptionError(
                f"there are no TensorRT graphs in precision {self.precision}; choose fp32, fp16 or bf16, "
                "or leave --tensorrt out"
            )

    def routing_options(self) -> list[str]:
        """Names of the options given that only mean something to MoE layers."""
        defaults = {field.name: field.default for field in fields(self)}
        names = ("capacity", "k", "bpr", "group", "batch", "rounding", "capacity_multiple_of", "dispatch_bf16")
        return [name for name in names if getattr(self, name) != defaults[name]]


@dataclass(frozen=True)
class ExportPlan:
    """Everything that is decided before a byte is written.

    `rules` and `profiles` are None and empty for a dense ViT.
    """

    checkpoint: Checkpoint
    options: ExportOptions
    model: ModelConfig
    output: Literal["logits", "features"]
    grouping: Grouping
    rules: RoutingRules | None
    profiles: tuple[Profile, ...]
    notes: tuple[str, ...] = ()

    @property
    def stored_precision(self) -> Precision:
        """What the weights file holds."""
        return stored_precision(self.options.precision)

    @property
    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Stored shape of each tensor of the bundle."""
        return stored_parameters(self.model, features=self.output == "features")

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors of the bundle."""
        return sum(tensor.nbytes for tensor in stored_tensors(self.weight_shapes, self.stored_precision).values())

    @property
    def dense_flops(self) -> int:
        """FLOPs per image of the dense ViT of the same size."""
        return dense_flops(self.model)

    def flops(self, profile: Profile) -> int:
        """FLOPs per image at a profile."""
        assert self.rules is not None
        return sparse_flops(self.model, self.rules, profile)


@dataclass(frozen=True)
class ExportResult:
    """A written bundle, and what validation found.

    Attributes:
        path: the bundle.
        plan: what was exported.
        comparisons: each graph at each profile against the torch model of the same precision.
        distances: for other precisions than fp32, that torch model at each profile against the one in float32.
        tensorrt: graph files for TensorRT by profile, or by "model" for a dense ViT.
        rounded: the TensorRT graphs against torch, where they are in fp16 or bf16.
    """

    path: Path
    plan: ExportPlan
    comparisons: tuple[Comparison, ...] = ()
    distances: tuple[PrecisionDistance, ...] = ()
    tensorrt: Mapping[str, str] = field(default_factory=dict)
    rounded: tuple[RoundedComparison, ...] = ()


ProgressHook = Callable[[str, int], None]
StageHook = Callable[[str], AbstractContextManager[Any]]


def plan_export(checkpoint: Checkpoint, options: ExportOptions) -> ExportPlan:
    """Decides what an export will write, from names and shapes alone.

    Raises:
        CheckpointError, ConfigError, OptionError: naming what doesn't fit.
        RoutingError: a capacity ratio or k that the model can't be run with.
    """
    config = options.config
    if config is not None and not isinstance(config, dict):
        config = load_config(Path(config))
    shapes = {name: info.shape for name, info in checkpoint.info.items()}
    try:
        model = describe_model(
            shapes,
            config,
            image_size=options.image_size,
            rounding=options.rounding,
            capacity_multiple_of=options.capacity_multiple_of,
            dispatch_bf16=options.dispatch_bf16,
        )
        check_parameters(checkpoint.info, model)
    except ConfigError as error:
        raise ConfigError(f"{checkpoint.path}: {error}") from None
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from None
    output = options.output if model.num_classes else "features"
    size = model.num_classes if output == "logits" else model.feature_size
    names = options.class_names
    if names is not None and len(names) != size:
        raise OptionError(f"there are {len(names)} class names, but the model has {size} outputs")
    if model.moe is None and (given := options.routing_options()):
        raise OptionError(f"this is a dense ViT without MoE layers, so it takes no {', '.join(given)}")
    if model.moe is None and options.precision == "bf16-experts":
        raise OptionError(
            "this is a dense ViT without experts, so precision bf16-experts means nothing; choose bf16 or int8"
        )
    grouping = parse_group(options.group, model.num_tokens, options.batch)
    rules, profiles = _profiles(model, grouping, options)
    return ExportPlan(
        checkpoint, options, model, output, grouping, rules, profiles, _notes(config or {}, model, grouping, options)
    )


def export_bundle(
    checkpoint: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    validate: bool = True,
    atol: float | None = None,
    force: bool = False,
    **options: Any,
) -> ExportResult:
    """Exports a checkpoint to a bundle.

    Args:
        checkpoint: what `open_checkpoint` takes.
        path: the bundle's folder, such as `b16.vmoe`.
        validate: run the written graphs in ONNX Runtime and compare them with the torch model.
        atol: largest difference of logits that validation accepts. Default 1e-4, or 1e-2 where the model rounds to bfloat16.
        force: replace a bundle that is already there.
        options: fields of ExportOptions.

    Raises:
        VmoeError: nothing was written.

    Example:
        >>> result = export_bundle("samples/mnist/vmoe_mnist", folder / "mnist.vmoe", capacity=[0.3], k=[1])
        >>> [profile.name for profile in result.plan.profiles]
        ['c0.3-k1']
    """
    with open_checkpoint(checkpoint) as opened:
        plan = plan_export(opened, ExportOptions(**options))
        return write_bundle(plan, Path(path), validation=validate, atol=atol, force=force)


def write_bundle(
    plan: ExportPlan,
    target: Path,
    *,
    validation: bool = True,
    atol: float | None = None,
    force: bool = False,
    progress: ProgressHook = lambda name, size: None,
    stage: StageHook = lambda text: nullcontext(),
) -> ExportResult:
    """Writes the bundle of a plan, whole or not at all.

    Args:
        plan: from `plan_export`.
        target: the bundle's folder.
        validation, atol, force: as in `export_bundle`.
        progress: called with name and bytes after each tensor.
        stage: called with a few words before each longer step; the context lasts as long as the step.

    Raises:
        ExportError: the bundle can't be written, or validation failed.
        CheckpointError: the checkpoint turned out damaged.
    """
    # torch takes seconds to import; planning and its errors don't wait for it.
    from vmoe_export.graph_files import write_graphs, write_tensorrt_graphs
    from vmoe_export.model import Vmoe
    from vmoe_export.precision_distance import distance_from_float32
    from vmoe_export.tensorrt_validation import validate_float32, validate_rounded
    from vmoe_export.weights_file import write_weights

    check_target(target, force=force)
    if atol is not None and not (math.isfinite(atol) and atol > 0):
        raise OptionError(f"atol must be a positive number, not {atol}")
    model, options, stored = plan.model, plan.options, plan.stored_precision
    limits = graph_limits(stored, dispatch_bf16=bool(model.moe and model.moe.dispatch_bf16), atol=atol)
    multiple = plan.grouping.batch_multiple
    tensorrt: dict[str, str] = {}
    comparisons: list[Comparison] = []
    distances: list[PrecisionDistance] = []
    rounded: list[RoundedComparison] = []
    needed = plan.weight_bytes + _GRAPH_BYTES * (2 if options.tensorrt else 1)
    with new_bundle(target, force=force, needed_bytes=needed) as folder:
        spans = write_weights(folder / WEIGHTS_NAME, plan.checkpoint, model, plan.weight_shapes, progress, stored)
        network = Vmoe(
            model,
            plan.grouping.tokens,
            features=plan.output == "features",
            uint8_input=options.input == "uint8",
            precision=stored,
        ).load_weights(folder / WEIGHTS_NAME)
        with stage("tracing the graph"):
            canonical = write_graphs(folder, network, plan.grouping, spans, next(iter(plan.profiles), None))
        if options.tensorrt:
            with stage("writing the TensorRT graphs"):
                tensorrt = write_tensorrt_graphs(folder, canonical, plan.profiles, options.precision, model.hidden_size)
        if validation:
            with stage("comparing with torch"):
                comparisons = validate(network, folder, (CANONICAL_GRAPH, INLINED_GRAPH), plan.profiles, multiple)
                if tensorrt and options.precision == "fp32":
                    comparisons += validate_float32(network, folder, tensorrt, plan.profiles, multiple)
            check(comparisons, limits)
        if validation and tensorrt and options.precision != "fp32":
            with stage("comparing the TensorRT graphs with torch"):
                rounded = validate_rounded(network, folder, tensorrt, plan.profiles, multiple, options.precision, atol)
        if validation and stored != "fp32":
            with stage("comparing with float32"):
                distances = distance_from_float32(network, plan.checkpoint, plan.profiles, multiple)
        with stage("writing the manifest"):
            write_manifest(folder, _manifest(plan, tensorrt, comparisons, distances, rounded, limits))
    return ExportResult(target, plan, tuple(comparisons), tuple(distances), tensorrt, tuple(rounded))


def _profiles(
    model: ModelConfig, grouping: Grouping, options: ExportOptions
) -> tuple[RoutingRules | None, tuple[Profile, ...]]:
    moe = model.moe
    if moe is None:
        return None, ()
    rules = RoutingRules(moe.num_experts, grouping.tokens, len(moe.layers), moe.rounding, moe.capacity_multiple_of)
    profiles = {}
    for ratio in options.capacity or (moe.capacity_ratio,):
        for k in options.k or (moe.k,):
            profile = rules.profile(ratio, k, options.bpr)
            profiles[profile.name] = profile
    return rules, tuple(profiles.values())


def _notes(config: dict[str, Any], model: ModelConfig, grouping: Grouping, options: ExportOptions) -> tuple[str, ...]:
    """What a user might not expect: above all, settings of training that are not followed."""
    notes = []
    (rows, columns), patches = model.grid, math.prod(model.grid)
    if model.position_emb == "learned" and rows != columns and math.isqrt(patches) ** 2 == patches:
        notes.append(f"the position embedding of {patches} patches is taken for a {rows}x{columns} grid, without resizing")
    if model.moe is None:
        return tuple(notes)
    moe = (config.get("encoder") or {}).get("moe") or {}
    dispatcher = (moe.get("router") or {}).get("dispatcher") or {}
    if moe.get("group_size") not in (None, grouping.tokens):
        notes.append(
            f"the config's group_size of {moe['group_size']} tokens is not followed: groups are {grouping.name} "
            f"({grouping.tokens} tokens); --group tokens:{moe['group_size']} follows it"
        )
    if dispatcher.get("batch_priority") not in (None, options.bpr):
        flag = "--bpr" if dispatcher["batch_priority"] else "--no-bpr"
        notes.append(f"the config's batch_priority {dispatcher['batch_priority']} is not followed: {flag} follows it")
    return tuple(notes)


def _manifest(
    plan: ExportPlan,
    tensorrt: Mapping[str, str],
    comparisons: list[Comparison],
    distances: list[PrecisionDistance],
    rounded: list[RoundedComparison],
    limits: Limits,
) -> dict[str, Any]:
    model, rules, checkpoint = plan.model, plan.rules, plan.checkpoint
    height, width = model.image_size
    names = plan.options.class_names
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "producer": {"name": "vmoe-export", "version": __version__},
        "source": {"name": checkpoint.path.name, "format": checkpoint.format, "sha256": checkpoint.sha256()},
        "model": model.to_json(),
        "input": {
            "name": "image",
            "dtype": plan.options.input,
            "height": height,
            "width": width,
            "channels": model.channels,
        },
        "preprocessing": {"resize": "bilinear", "antialias": False, "value_range": [-1, 1]},
        "output": {
            "name": plan.output,
            "size": model.num_classes if plan.output == "logits" else model.feature_size,
        },
        "class_names": None if names is None else list(names),
        "routing": rules
        and {
            "num_experts": rules.num_experts,
            "layers": [f"encoderblock_{i}" for i in (model.moe.layers if model.moe else ())],
            "group": plan.grouping.name,
            "group_tokens": rules.group_tokens,
            "rounding": rules.rounding,
            "capacity_multiple_of": rules.capacity_multiple_of,
        },
        "precision": plan.stored_precision,
        "batch_multiple": plan.grouping.batch_multiple,
        "profiles": [asdict(profile) for profile in plan.profiles],
        "graphs": {"canonical": CANONICAL_GRAPH, "inlined": INLINED_GRAPH},
        **({"tensorrt": {"precision": plan.options.precision, "graphs": dict(tensorrt)}} if tensorrt else {}),
        "flops_per_image": {
            "dense": plan.dense_flops,
            **{profile.name: plan.flops(profile) for profile in plan.profiles},
        },
        "validation": {
            "atol": limits.difference,
            "relative_limit": limits.relative,
            "comparisons": [asdict(comparison) for comparison in comparisons],
            "distance_from_fp32": [asdict(distance) for distance in distances],
            **({"tensorrt": [asdict(comparison) for comparison in rounded]} if rounded else {}),
        }
        if comparisons
        else None,
    }
