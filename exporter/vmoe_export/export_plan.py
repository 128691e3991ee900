"""Plan what an export will write, using only the names and shapes of the checkpoint's tensors."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vmoe_export.checkpoint import Checkpoint
from vmoe_export.checkpoint.base import naming
from vmoe_export.checkpoint.new_head import NewHead
from vmoe_export.errors import ConfigError, OptionError
from vmoe_export.families.family_checkpoint import FamilyCheckpoint
from vmoe_export.families.family_list import family_of
from vmoe_export.model.config_file import FIELDS, load_config, unknown_fields
from vmoe_export.model.exported_model import ExportedModel
from vmoe_export.model.grouping import Grouping, parse_group
from vmoe_export.model.model_config import ExpertsChoice, ModelConfig, Soft, TopK, pixels
from vmoe_export.model.model_description import FLAGS, describe_model
from vmoe_export.model.parameters import POSITION_EMBEDDING, check_parameters, stored_parameters, stored_tensors
from vmoe_export.model.position_embedding import resize_notes
from vmoe_export.options.export_options import FOREIGN, ExportOptions
from vmoe_export.options.preprocessing_steps import default_steps, parse_steps
from vmoe_export.precision import PRECISIONS
from vmoe_export.presets import PRESETS, Preset, preset_in
from vmoe_measure.flops import ModelShape, dense_flops, rows_of_all_slots, sparse_flops
from vmoe_measure.head_inputs import head_inputs, is_sampled
from vmoe_runtime.bundle.manifest import InputSpec, Output
from vmoe_runtime.precisions import STORED_ELEMENTS, Precision, TensorRtPrecision
from vmoe_runtime.preprocessing import Preprocessing
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing_rules import RoutingRules


@dataclass(frozen=True)
class ExportPlan:
    """All decisions about an export, made before the first byte is written.

    For a dense ViT or a Soft MoE, `profiles` is empty unless tokens are merged.
    """

    checkpoint: Checkpoint
    options: ExportOptions
    model: ModelConfig
    output: Output
    grouping: Grouping
    rules: RoutingRules
    profiles: tuple[Profile, ...]
    preprocessing: Preprocessing
    notes: tuple[str, ...] = ()

    @property
    def preset(self) -> Preset | None:
        """The preset that the config comes from, if any."""
        return PRESETS.get(self.options.preset or "")

    @property
    def input(self) -> Literal["float32", "uint8"]:
        """The element type of the graph's image input."""
        return self.options.input or "float32"

    @property
    def input_spec(self) -> InputSpec:
        """The graph's input, and how a picture is preprocessed for it."""
        return InputSpec(self.input, *self.model.image_size, self.model.channels, self.preprocessing)

    @property
    def stored_precision(self) -> Precision:
        """The precision of the weights file and of the graphs for CPUs."""
        return "fp32" if self.options.precision == "fp16" else self.options.precision

    @property
    def tensorrt_precision(self) -> TensorRtPrecision | None:
        """The type of the large products in the TensorRT graphs, or None if no TensorRT graphs are written."""
        return PRECISIONS[self.options.precision].tensorrt if self.options.tensorrt else None

    @property
    def exported(self) -> ExportedModel:
        """The model that the graphs compute."""
        return ExportedModel(
            self.model,
            self.grouping,
            self.output,
            self.input == "uint8",
            self.stored_precision,
            tuple(self.options.layers or ()),
        )

    @property
    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """The stored shape of each tensor in the bundle."""
        return stored_parameters(self.model, features=self.output == "features")

    @property
    def weight_bytes(self) -> int:
        """The total size in bytes of all tensors in the bundle."""
        return sum(tensor.nbytes for tensor in stored_tensors(self.weight_shapes, self.stored_precision).values())

    @property
    def dense_flops(self) -> int:
        """FLOPs per image of the dense ViT of the same size."""
        return dense_flops(self._shape)

    def flops(self, profile: Profile) -> int:
        """Return the FLOPs per image at a profile, assuming that every slot of every expert is filled."""
        return sparse_flops(self._shape, rows_of_all_slots(self.rules, profile, self._shape), profile.merge or 0)

    @property
    def _shape(self) -> ModelShape:
        return ModelShape.of(self.model.to_json(), features=self.output == "features", outputs=self.exported.answers)


def plan_export(checkpoint: Checkpoint, options: ExportOptions) -> ExportPlan:
    """Plan an export, using only the names and shapes of the checkpoint's tensors.

    Raises:
        CheckpointError: the tensors do not match the model.
        ConfigError: the config contradicts the tensors, or describes an unsupported model.
        OptionError: an option does not fit the model.
        RoutingError: the model cannot run with a requested capacity ratio or k.
    """
    checkpoint, options = _under_official_names(checkpoint, options)
    own_config, trunk = options.config, checkpoint
    options = options.completed_by(trunk)
    preset = PRESETS.get(options.preset or "")
    config = preset.config if preset else _config(options, is_own=options.config is own_config)
    head: NewHead | None = None
    if options.head is not None:
        checkpoint = head = NewHead(trunk, Path(options.head))
        if options.class_names is None:
            options = replace(options, class_names=head.class_names)
        config = {name: value for name, value in config.items() if name != "num_classes"}
    shapes = {name: info.shape for name, info in checkpoint.info.items()}
    with naming(checkpoint.path):
        try:
            model = describe_model(shapes, config, **{name: getattr(options, name) for name in FLAGS})
            model = replace(model, family=trunk.family_title)
            _check_ensemble(checkpoint, model, config)
            if preset and options.image_size is None:
                _check_size(preset, model)
            if head is not None:
                head.read(model.feature_size)
            check_parameters(checkpoint.info, model)
        except ConfigError as error:
            message = _of_preset(str(error), preset)
            if preset and preset.name not in message:
                message = f"{message} (with preset {preset.name})"
            raise ConfigError(message) from None
    output = _output(options, model)
    model = model.for_output(output)
    _check_class_names(options, model, output)
    if model.moe is None and (given := options.routing_options()):
        raise OptionError(f"this is a dense ViT without MoE layers, so it takes no {', '.join(given)}")
    _check_precision(options, model)
    grouping = parse_group(options.group or "image", model.num_tokens, options.batch_size, model.ensemble_size)
    exported = ExportedModel(model, grouping, output, layers=_layers(options, model))
    rules, settings = _rules(exported), options.profile_settings(trunk, model.moe.routing if model.moe else None)
    profiles = tuple({profile.name: profile for profile in map(rules.profile_of, settings)}.values())
    if options.tensorrt and (unsupported := _not_for_tensorrt(model, profiles)):
        raise OptionError(f"there are no TensorRT graphs of {unsupported}; omit --tensorrt")
    steps = _preprocessing(options, model)
    if head is not None and head.fitted_to:
        names = filter(is_sampled, stored_parameters(model, features=True))
        sampled = ((name, np.asarray(trunk[name], np.float32).tobytes()) for name in names)
        head.check_inputs(head_inputs(model.to_json(), steps, sampled))
    config_file = trunk.config_file
    found = [f"the config is {config_file}"] if options.config == config_file != own_config else []
    unexpected = _notes(config, model, grouping, options, checkpoint)
    notes = (*trunk.notes, *found, *unexpected, *_preset_notes(checkpoint, options))
    notes = tuple(_of_preset(note, preset) for note in notes)
    return ExportPlan(checkpoint, options, model, output, grouping, rules, profiles, steps, notes)


def _under_official_names(checkpoint: Checkpoint, options: ExportOptions) -> tuple[Checkpoint, ExportOptions]:
    """Translate another library's checkpoint to official names, and complete the options from the files next to it.

    If the checkpoint is official, it and its options are returned unchanged.
    """
    family = family_of(checkpoint.info)
    if family is None:
        if foreign := next((name for name in FOREIGN if getattr(options, name) is not None), None):
            raise OptionError(f"--{foreign} is for checkpoints of other libraries; omit --{foreign}")
        return checkpoint, options
    if options.preset is not None:
        raise OptionError(f"--preset is for official checkpoints, and this is a {family.title}; omit it")
    given = {name: getattr(options, name) for name in FOREIGN}
    with naming(checkpoint.path):
        found = FamilyCheckpoint(checkpoint, family, options.config, options.image_size, **given)
    returns_classes = options.returns_classes and options.head is None and "head/kernel" in found.info
    completed = replace(
        options,
        config=found.config,
        architecture=None,
        preprocess=options.preprocess or found.preprocess,
        class_names=found.class_names if options.class_names is None and returns_classes else options.class_names,
        probabilities=options.probabilities or (found.probabilities if returns_classes else None),
    )
    return found, completed


def _not_for_tensorrt(model: ModelConfig, profiles: Sequence[Profile]) -> str | None:
    """Return the feature of the model or its profiles that TensorRT graphs do not support.

    If all features are supported, return None.
    """
    kinds = {"experts-choice": "expert choice", "soft": "Soft MoEs"}
    if model.ensemble_size > 1:
        return "ensembles (E3)"
    if model.normalizes_weights:
        return "experts whose weights are normalized"
    if model.moe and model.moe.routing.kind in kinds:
        return kinds[model.moe.routing.kind]
    if profile := next((profile for profile in profiles if profile.policies), None):
        return f"profiles with {' or '.join(profile.policies)}, such as {profile.name}"
    return None


def _check_ensemble(checkpoint: Checkpoint, model: ModelConfig, config: Mapping[str, Any]) -> None:
    """Raise ConfigError if the checkpoint's name suggests an E3, but its ensemble size is stated nowhere.

    A pre-trained E3 has the same tensors as a plain V-MoE. If the exporter read it as a plain V-MoE, the model's outputs
    would be wrong without any error.
    """
    if model.origins.get("ensemble_size") == "default" and not config.get("name") and "eee_" in checkpoint.path.name:
        raise ConfigError(
            "its name suggests an ensemble of experts (E3), whose tensors can look like those of a plain V-MoE; pass "
            "--ensemble-size M for an ensemble of M members (2 in the official ones, which have a --preset), or "
            "--ensemble-size 1 for a plain V-MoE"
        )


def _output(options: ExportOptions, model: ModelConfig) -> Output:
    if not model.pools and options.output != "tokens":
        raise OptionError("the model returns only its tokens; pass --output tokens")
    if options.output == "logits" and not model.num_classes:
        raise OptionError("the model has no head, so it returns no logits; omit --output logits")
    output = options.output or "logits"
    if output == "tokens" and options.normalize:
        raise OptionError("--normalize is for the embedding of an image, and this bundle would return tokens; omit it")
    if output == "tokens" and model.ensemble_size > 1:
        raise OptionError("an ensemble (E3) has separate tokens of each member; choose logits or members")
    if model.ensemble_size > 1 and not model.num_classes:
        raise OptionError("an ensemble (E3) exposes no features, and this one has no head; pass one with --head")
    output = output if model.num_classes or output == "tokens" else "features"
    if output == "members" and model.ensemble_size == 1:
        raise OptionError("this is not an ensemble (E3), so it has no members; choose logits or features")
    if output == "features" and model.ensemble_size > 1:
        raise OptionError("an ensemble (E3) exposes no features; choose logits or members")
    if options.probabilities is not None and output != "logits":
        raise OptionError(f"--probabilities applies to logits, and this bundle would return {output}; omit it")
    return output


def _check_class_names(options: ExportOptions, model: ModelConfig, output: Output) -> None:
    size = model.feature_size if output == "features" else model.num_classes
    if options.class_names is not None and len(options.class_names) != size:
        raise OptionError(f"there are {len(options.class_names)} class names, but the model has {size or 'no'} outputs")


def _check_precision(options: ExportOptions, model: ModelConfig) -> None:
    numbers = PRECISIONS[options.precision]
    if model.moe is None and numbers.needs_experts:
        raise OptionError(
            f"this is a dense ViT without experts, so precision {options.precision} does not apply; choose bf16 or int8"
        )
    if model.moe and STORED_ELEMENTS[numbers.experts.stored].bytes < 1 and (model.hidden_size % 2 or model.moe.mlp_dim % 2):
        raise OptionError(
            f"precision {options.precision} stores two weights per byte, but a size of the experts is odd; choose int8"
        )


def _layers(options: ExportOptions, model: ModelConfig) -> tuple[int, ...]:
    """Return the numbers of the encoder blocks whose output, the residual stream, is also an output of the model."""
    layers = tuple(options.layers or ())
    if layers and model.ensemble_size > 1:
        raise OptionError("an ensemble (E3) has separate tokens of each member, so it cannot return layers; omit --layers")
    if layers and layers[-1] >= model.num_layers:
        raise OptionError(f"there is no block {layers[-1]} for --layers: the model has 0 to {model.num_layers - 1}")
    return layers


def _preprocessing(options: ExportOptions, model: ModelConfig) -> Preprocessing:
    try:
        steps = default_steps(*model.image_size) if options.preprocess is None else parse_steps(options.preprocess)
        steps.check_size(*model.image_size)
    except ValueError as error:
        raise OptionError(f"preprocess: {error}") from None
    return steps if options.exif is None else replace(steps, rotates=options.exif)


def _rules(exported: ExportedModel) -> RoutingRules:
    moe, image_tokens = exported.config.moe, exported.config.num_tokens if exported.merges else None
    if moe is None:
        return RoutingRules("dense", image_tokens=image_tokens)
    routing, sizes = moe.routing, (moe.experts, exported.grouping.tokens, image_tokens)
    if isinstance(routing, Soft):
        return RoutingRules("soft", *sizes, slots_per_expert=routing.slots_per_expert)
    if isinstance(routing, ExpertsChoice):
        return RoutingRules("experts-choice", *sizes, routing.rounding, routing.capacity_multiple_of)
    return RoutingRules("top-k", *sizes, routing.rounding, routing.capacity_multiple_of, routing.ensemble_size)


def _notes(
    config: Mapping[str, Any], model: ModelConfig, grouping: Grouping, options: ExportOptions, checkpoint: Checkpoint
) -> tuple[str, ...]:
    """Return notes for the user about what the export assumes, ignores, or does differently from the config."""
    notes = []
    if unknown := [*unknown_fields(config)]:
        listed = ", ".join(unknown[:3]) + (f" and {more} more" if (more := len(unknown[3:])) else "")
        notes.append(f"the config has fields that official configs do not have there; they are ignored: {listed}")
    (rows, columns), patches = model.grid, math.prod(model.grid)
    if (
        model.position_emb == "learned"
        and "image_size" not in config
        and rows != columns
        and math.isqrt(patches) ** 2 == patches
    ):
        notes.append(f"the position embedding of {patches} patches is used for a {rows}x{columns} grid, without resizing")
    if model.position_emb == "learned" and (tokens := checkpoint.info[POSITION_EMBEDDING].shape[1]) != model.num_tokens:
        notes += resize_notes((math.isqrt(tokens),) * 2, model.grid)
    notes += _unseen_pixels(model)
    if options.normalize and options.head is None and options.returns_classes and model.num_classes:
        notes.append("with --normalize, the model's own head gets normalized embeddings, on which it may not be trained")
    if model.moe is None:
        return tuple(notes)
    moe = (config.get("encoder") or {}).get("moe") or {}
    router = moe.get("router") or {}
    dispatcher = router.get("dispatcher") or {}
    if moe.get("group_size") not in (None, grouping.tokens):
        notes.append(
            f"the config's group_size of {moe['group_size']} tokens is not followed: groups are {grouping.name} "
            f"({grouping.tokens} tokens); --group tokens:{moe['group_size']} follows it"
        )
    if moe.get("num_experts") not in (None, *model.moe.experts):
        notes.append(f"the config's num_experts of {moe['num_experts']} is not followed: the checkpoint has fewer")
    k = router.get("num_selected_experts")
    if isinstance(model.moe.routing, TopK) and k not in (None, model.moe.routing.k):
        notes.append(f"the config's num_selected_experts of {k} is not followed: a layer has fewer experts")
    if dispatcher.get("batch_priority") not in (None, options.bpr is not False):
        flag = "--bpr" if dispatcher["batch_priority"] else "--no-bpr"
        notes.append(f"the config's batch_priority {dispatcher['batch_priority']} is not followed: {flag} follows it")
    return tuple(notes)


def _config(options: ExportOptions, *, is_own: bool) -> Mapping[str, Any]:
    """Return the config in `options`.

    Raise ConfigError if the user passed the config (`is_own`) and none of its fields is known.
    """
    config = options.config
    found = load_config(Path(config)) if isinstance(config, str | os.PathLike) else config or {}
    if is_own and found and not found.keys() & FIELDS["model"]:
        raise ConfigError(f"{config} has no field of an official model config, such as num_classes or encoder")
    return found


def _check_size(preset: Preset, model: ModelConfig) -> None:
    """Raise ConfigError if the preset's image size differs from the checkpoint's.

    A position embedding is resized only if the user passes --image-size.
    """
    if preset.image_size != model.image_size:
        own = pixels(model.image_size)
        raise ConfigError(
            f"the config is for {pixels(preset.image_size)} px, but the checkpoint is for {own}; "
            f"pass --image-size {own} to keep it"
        )


def _of_preset(message: str, preset: Preset | None) -> str:
    """If the config comes from a preset, replace "the config" in a message by the preset's name."""
    return message.replace("the config", f"preset {preset.name}") if preset else message


def _preset_notes(checkpoint: Checkpoint, options: ExportOptions) -> list[str]:
    """Return a note if the file name contains the name of a preset that is not used.

    This is not an error, because a file name proves nothing. The tensors can't confirm the preset either, because several
    released checkpoints have the same tensor names and shapes.
    """
    found = preset_in(checkpoint.path.name)
    if found is None or options.config is not None or options.preset == found.name:
        return []
    if options.preset is not None:
        return [f"the name contains '{found.name}', but --preset is {options.preset}"]
    takes = "config, preprocessing and class names" if found.class_names else "config and preprocessing"
    return [f"the name contains '{found.name}': --preset {found.name} takes its {takes}"]


def _unseen_pixels(model: ModelConfig) -> list[str]:
    """Return a note if the patches do not cover the whole image. The model ignores the uncovered pixels."""
    (rows, columns), (height, width) = model.grid, model.patch_size
    whole = (rows * height, columns * width)
    if whole == model.image_size:
        return []
    size, seen = pixels(model.image_size), pixels(whole)
    return [f"patches of {height}x{width} px don't fill {size}: the model sees only the first {seen}"]
