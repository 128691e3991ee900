"""The options of an export, and the sources that complete them: a bundle, a preset, or the checkpoint's config file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from vmoe_export.checkpoint import BundleCheckpoint, Checkpoint
from vmoe_export.class_names import names_of
from vmoe_export.errors import OptionError
from vmoe_export.model.model_config import RoutingConfig
from vmoe_export.options.preprocessing_steps import default_steps
from vmoe_export.precision import PRECISIONS, ExportPrecision
from vmoe_export.presets import PRESETS
from vmoe_runtime.bundle.manifest import Output, Probabilities
from vmoe_runtime.capacity import Rounding
from vmoe_runtime.errors import RoutingError, shown
from vmoe_runtime.settings import NEEDED, OFFICIAL_SETTINGS, POLICIES, ROWS, Choices, Setting, parse_profile_name

FOREIGN = ("heads", "activation", "pooling", "architecture")
"""The options that supply what the tensors of another library's model do not determine."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Choices):
    """The options of an export.

    If a field is None, its value comes from the first of these that provides one:

    - the bundle, if the checkpoint is a bundle,
    - the preset or the config,
    - the default.

    The fields of `vmoe_runtime.settings.Choices`, such as `bpr` and `merge`, apply to all stored profiles.

    Attributes:
        capacity: capacity ratios; each combination with a `k` is a profile. Default: the training ratio, or 1.05.
        k: numbers of experts per token. Default: the training k, or 2.
        group: "image" (the default), "batch", a number of images, or "tokens:S".
        batch_size: number of images per batch, which must be whole groups; required if `group` is "batch".
        config: official model config (a mapping or the path of a file), or the config.json of another library's model.
        image_size: (height, width) in pixels.
        rounding: how a ratio is rounded to slots, "ceil" (up) or "round" (to the nearest integer). Default: the config's, or
            "ceil".
        capacity_multiple_of: round the slots per expert up to a multiple of this. Default: the config's, or 1.
        dispatch_bf16: whether to round expert inputs and outputs to bfloat16, as the official configs do.
        ensemble_size: M, the number of members of an ensemble of experts (E3), if the tensors do not determine it; 1 means a
            plain V-MoE.
        router: "top-k" or "experts-choice"; the tensors are the same for both. Default: the config's, or "top-k".
        precision: type of the large products and of their stored weights, a key of `precision.PRECISIONS`. With `tensorrt`,
            it must be "fp32", "bf16" or "fp16", and is also the type of the large products in the TensorRT graphs.
        tensorrt: whether to write a TensorRT graph for each profile, in addition to the graphs for CPUs.
        input: element type of the graph's images: "float32" (the default) for values in [-1, 1], or "uint8" for pixels,
            which the graph scales.
        output: "logits" (the default), "members" (the logits of each member of an E3), "features", or "tokens" (all tokens
            after the last norm). For an E3, "logits" are the official prediction: the logarithm of the members' mean
            probability.
        layers: numbers of blocks, counted from 0, in ascending order. The residual stream after each of these blocks is an
            additional output, such as "layer3" for block 3.
        preprocess: preprocessing steps, joined by "|". Default: those of the official configs,
            "resize_small(256)|central_crop(224)" at 224 px and "resize(PX)" at other sizes.
        exif: whether to rotate pictures by their EXIF orientation. Default: as `preprocess` says. Without
            `preprocess`, models of transformers rotate pictures, and official models and models of timm do not.
        normalize: whether to divide the features by their Euclidean norm before the head or, if there is no head, before
            they are returned.
        probabilities: how logits become probabilities, "softmax" (the default) or "sigmoid", which treats each class on its
            own.
        class_names: names of the classes.
        head: a file with another head, see `checkpoint.new_head.NewHead`. The old class names are dropped.
        preset: a name in `presets.PRESETS`. Its config, preprocessing and class names are used; it can't be combined with
            `config`.
        heads: number of attention heads of another library's model, if its files do not state it.
        activation: activation of the MLPs of another library's model, if its files do not state it: "gelu", "gelu_tanh",
            "quick_gelu", "silu".
        pooling: input of the head of another library's model, if its files do not state it: "token" (the class token) or
            "avg" (the mean of the patches).
        architecture: an architecture of the installed open_clip or timm whose config is used; it can't be combined with
            `config`.

    Raises:
        OptionError: a field has the wrong type or an invalid value.
    """

    capacity: Sequence[float] | None = None
    k: Sequence[int] | None = None
    group: str | None = None
    batch_size: int | None = None
    config: dict[str, Any] | str | os.PathLike[str] | None = None
    image_size: tuple[int, int] | None = None
    rounding: Rounding | None = None
    capacity_multiple_of: int | None = None
    dispatch_bf16: bool | None = None
    ensemble_size: int | None = None
    router: Literal["top-k", "experts-choice"] | None = None
    precision: ExportPrecision = "fp32"
    tensorrt: bool = False
    input: Literal["float32", "uint8"] | None = None
    output: Output | None = None
    layers: Sequence[int] | None = None
    preprocess: str | None = None
    exif: bool | None = None
    normalize: bool | None = None
    probabilities: Probabilities | None = None
    class_names: Sequence[str] | None = None
    head: str | os.PathLike[str] | None = None
    preset: str | None = None
    heads: int | None = None
    activation: Literal["gelu", "gelu_tanh", "quick_gelu", "silu"] | None = None
    pooling: Literal["token", "avg"] | None = None
    architecture: str | None = None

    def __post_init__(self) -> None:
        self._check_types()
        self._check_values()
        self._check_combination()

    def _check_types(self) -> None:
        for name, kinds in FIELD_TYPES.items():
            value = getattr(self, name)
            if name in FIELD_VALUES:
                allowed = (*([None] if NoneType in kinds else []), *FIELD_VALUES[name])
                # Check the type first. A comparison of an array with the allowed values would give an array, not a bool.
                if not isinstance(value, str | int | np.bool_ | None) or value not in allowed:
                    raise OptionError(f"{name} is {shown(value)}, not one of {', '.join(map(str, allowed))}")
            # A string is also a sequence, but it is never a valid sequence here.
            elif not isinstance(value, kinds) or (isinstance(value, str) and str not in kinds):
                raise OptionError(f"{name} is {shown(value)}, but must be {_WORDS[name]}")

    def _check_values(self) -> None:
        try:
            for name, value in self._choices.items():
                ROWS[name].check(value)
        except RoutingError as error:
            raise OptionError(str(error)) from None
        if self.capacity_multiple_of is not None and self.capacity_multiple_of < 1:
            raise OptionError(f"capacity_multiple_of must be at least 1, not {self.capacity_multiple_of}")
        layers = [*(self.layers or ())]
        if not all(type(block) is int and block >= 0 for block in layers) or layers != sorted(set(layers)):
            raise OptionError(f"layers is {shown(layers)}, but must be numbers of blocks in ascending order, such as 3,6,9")
        size = self.image_size
        if size is not None and not (len(size) == 2 and all(isinstance(n, int) and 0 < n < 100_000 for n in size)):
            raise OptionError(f"image_size is {size!r:.40}, but must be (height, width) in pixels")

    def _check_combination(self) -> None:
        if self.preset is not None and self.config is not None:
            raise OptionError(f"--preset {self.preset} contains a config, so it excludes --config; omit one of them")
        if self.architecture is not None and self.config is not None:
            raise OptionError(f"--architecture {self.architecture} has a config, so it excludes --config; omit one of them")
        if self.head is not None and not self.returns_classes:
            raise OptionError(
                f"{self.output} are the input of a head, so --output {self.output} excludes --head; omit one of them"
            )
        if self.precision == "fp16" and not self.tensorrt:
            raise OptionError("precision fp16 is for the graphs that TensorRT runs; add --tensorrt, or choose fp32 or bf16")
        if self.tensorrt and PRECISIONS[self.precision].tensorrt is None:
            raise OptionError(
                f"there are no TensorRT graphs in precision {self.precision}; choose fp32, fp16 or bf16, or omit --tensorrt"
            )

    @property
    def returns_classes(self) -> bool:
        """Whether the options choose the head's output. Whether the model has a head is not checked."""
        return self.output not in ("features", "tokens")

    @property
    def _choices(self) -> dict[str, Any]:
        """The fields of `Choices` that are set, by name."""
        return {choice.name: value for choice in fields(Choices) if (value := getattr(self, choice.name)) is not None}

    def routing_options(self) -> list[str]:
        """Return the names of the options that are set and that require MoE layers."""
        others = ("group", "batch_size", "rounding", "capacity_multiple_of", "dispatch_bf16", "ensemble_size", "router")
        return [name for name in (*OFFICIAL_SETTINGS, *POLICIES, *others) if getattr(self, name) is not None]

    def completed_by(self, checkpoint: Checkpoint) -> ExportOptions:
        """Fill in the options that are None.

        The values come from one of these sources:

        - the export settings of the bundle, if the checkpoint is a bundle,
        - the preset's preprocessing and class names, if there is a preset,
        - otherwise, the config file in the checkpoint's folder.

        Capacity ratios, k and bpr stay as they are, because they belong to profiles; see `profile_settings`.

        Raises:
            OptionError: the checkpoint is a bundle, and there is also a preset.
            OptionError: the checkpoint is a bundle of another library's model, and another image size is set.
        """
        given: dict[str, Any] = {}
        if isinstance(checkpoint, BundleCheckpoint):
            if self.preset is not None:
                raise OptionError(
                    f"{checkpoint.path} is a bundle, which keeps the config, preprocessing and class names that it was "
                    "exported with; omit --preset, or pass it with the checkpoint"
                )
            manifest = checkpoint.manifest
            size = (manifest.input.height, manifest.input.width)
            if checkpoint.family_title and self.image_size not in (None, size):
                raise OptionError(
                    f"{checkpoint.path} is a {checkpoint.family_title}, which has its own rule for another image size; "
                    "pass --image-size with the checkpoint"
                )
            batch_size = manifest.batch_multiple if self.group is None and manifest.group == "batch" else None
            given = {
                "config": checkpoint.config,
                "image_size": size,
                "group": manifest.group,
                "batch_size": batch_size,
                "input": manifest.input.dtype,
                "output": manifest.output,
                "layers": (manifest.raw.get("layers") or {}).get("blocks"),
                # The bundle's preprocessing steps only produce images of the bundle's size.
                "preprocess": str(manifest.input.steps) if self.image_size in (None, size) else None,
                "exif": manifest.input.steps.rotates if self.preprocess is None else None,
                "class_names": manifest.class_names if self.returns_classes else None,
                "probabilities": manifest.raw.get("probabilities") if self.output in (None, "logits") else None,
            }
        elif self.preset is None:
            given = {"config": checkpoint.config_file}
        else:
            preset = PRESETS[self.preset]
            size = preset.image_size
            returns_classes = self.returns_classes and "head/kernel" in checkpoint.info
            given = {
                # The preprocessing steps in the official config fit only this image size.
                "preprocess": str(default_steps(*size)) if self.image_size in (None, size) else None,
                "class_names": names_of(preset.class_names) if preset.class_names and returns_classes else None,
            }
        of_head = ("output", "class_names", "probabilities") if self.head is not None else ()
        given = {name: value for name, value in given.items() if getattr(self, name) is None and name not in of_head}
        return replace(self, **given)

    def profile_settings(self, checkpoint: Checkpoint, routing: RoutingConfig | None) -> list[Setting]:
        """Return the setting of each profile. There is one profile for each combination of a capacity ratio and a k.

        If neither ratios nor ks are set, a bundle keeps its own profiles. Any other checkpoint gets one profile, with the
        training values of the ratio and k.
        """
        trained = {name: value for name in NEEDED if (value := getattr(routing, ROWS[name].stored, None)) is not None}
        # Expert-choice profiles have no k. If an expert-choice bundle is exported again with top-K routing, the new profiles
        # need a k.
        stored = [{**trained, **setting.values} for setting in _stored_settings(checkpoint)]
        several = {"capacity": self.capacity, "k": self.k}
        if stored and not any(several.values()):
            return [Setting.of({**values, **self._choices}) for values in stored]
        axes = {
            name: given or [values[name] for values in stored if name in values] or [trained[name]]
            for name, given in several.items()
            if given or name in trained
        }
        rest = {**(stored[0] if stored else {}), **self._choices}
        if not axes and not rest:
            return []
        combinations = dict.fromkeys(product(*axes.values()))
        return [Setting.of({**rest, **dict(zip(axes, values, strict=True))}) for values in combinations]


def _kinds(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _values(kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    return (True, False) if bool in kinds else next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())


_HINTS = {
    name: _kinds(hint) for name, hint in get_type_hints(ExportOptions).items() if name in ExportOptions.__annotations__
}

FIELD_TYPES = {name: tuple(get_origin(kind) or kind for kind in kinds) for name, kinds in _HINTS.items()}
"""The types of each field that ExportOptions itself declares, by name."""

FIELD_VALUES = {name: values for name, kinds in _HINTS.items() if (values := _values(kinds))} | {"preset": tuple(PRESETS)}
"""The allowed values of each field that has a fixed set of them, apart from None."""

_WORDS = {
    "capacity": "a sequence of ratios, such as [0.3]",
    "k": "a sequence of numbers, such as [1]",
    "layers": "a sequence of numbers, such as [3, 6, 9]",
    "group": "text, such as 'image' or '16'",
    "batch_size": "a number of images",
    "ensemble_size": "a number of members",
    "heads": "a number of attention heads",
    "architecture": "the name of an architecture",
    "capacity_multiple_of": "a whole number",
    "image_size": "(height, width)",
    "config": "a mapping or the path of a JSON file",
    "preprocess": "official steps, such as 'resize(384)'",
    "class_names": "a sequence of names",
    "head": "the path of an npz or safetensors file",
}
"""A description of the expected value, for each field that is not in FIELD_VALUES."""


def _stored_settings(checkpoint: Checkpoint) -> list[Setting]:
    """Return the settings of the bundle's profiles, or an empty list if the checkpoint is not a bundle.

    Values that equal their defaults are left out, because not every kind of model has every setting.
    """
    if not isinstance(checkpoint, BundleCheckpoint):
        return []
    profiles = checkpoint.manifest.profiles.values()
    settings = (parse_profile_name(profile.name) for profile in profiles)
    return [setting for setting in settings if setting]
