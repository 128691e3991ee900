"""Make the options of `vmoe export` from the fields of ExportOptions: add help texts, and parse values by field type."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from vmoe_export.class_names import CLASS_LISTS
from vmoe_export.options.export_options import FIELD_TYPES, FIELD_VALUES, ExportOptions
from vmoe_export.precision import PRECISIONS
from vmoe_runtime.capacity import DEFAULT_ROUNDING
from vmoe_runtime.precisions import EXPERT_WEIGHT_BYTES
from vmoe_runtime.preprocessing import KNOWN_STEPS

F = TypeVar("F", bound=Callable[..., Any])

FIELD_HELP = {
    "config": "Official model config, or another library's config.json. It supplies what the tensors do not determine, such "
    "as a gap classifier.",
    "preset": "Use the config, preprocessing and class names of this released checkpoint; an unknown NAME lists all.",
    "group": "Tokens that compete for the same slots: those of one image (the default), the batch, N images, or S tokens.",
    "batch_size": "Images per batch; required by --group batch.",
    "image_size": "Size of the images; resizes a learned position embedding.",
    "capacity_multiple_of": "Round the slots per expert up to a multiple of N. Default: the config's, or 1 (official "
    "code: 4).",
    "rounding": "Round the slots per expert up (ceil) or to the nearest integer (round). "
    f"Default: the config's, or {DEFAULT_ROUNDING}.",
    "dispatch_bf16": "Round expert inputs and outputs to bfloat16. Default: the config's, or no.",
    "ensemble_size": "Number of members of an ensemble of experts (E3), if the tensors do not determine it; 1 is a plain "
    "V-MoE.",
    "heads": "Number of attention heads of another library's model, if its files do not give it.",
    "activation": "Activation of the MLPs of another library's model, if its files do not give it.",
    "pooling": "Input of the head of another library's model, if its files do not give it: the class token, or the mean of "
    "the patches.",
    "architecture": "Use the config of this architecture of the installed open_clip or timm, such as ViT-H-14.",
    "router": "Each token chooses its k experts (top-k), or each expert its tokens. Default: the config's, or top-k.",
    "precision": "Type of the large matrix products and of their stored weights. "
    f"{'; '.join(f'{name}: {PRECISIONS[name].words}' for name in EXPERT_WEIGHT_BYTES)}; fp16 is for --tensorrt.",
    "tensorrt": "Also write a TensorRT graph for each profile, fixed to its setting.",
    "input": "Type of the images: float32 in [-1, 1] (the default), or uint8, scaled inside the graph.",
    "preprocess": f"Preprocessing steps, joined by '|': {KNOWN_STEPS}. "
    "Default: resize_small(256)|central_crop(224) at 224 px, resize(PX) at other sizes.",
    "exif": "Rotate pictures by their EXIF orientation. Default: yes for models of transformers, no for all others.",
    "output": "Output of the graph; tokens: all tokens, after the last norm. Default: logits; for an E3, the logarithm of "
    "its members' mean probability.",
    "layers": "Also output the residual stream after these blocks, counted from 0: layer3 for block 3.",
    "normalize": "Divide the embedding by its Euclidean norm, before a head or before it is returned. Default: the "
    "bundle's, or no.",
    "probabilities": "How logits become probabilities: over all classes (softmax, the default), or of each class "
    "alone (sigmoid).",
    "class_names": f"Text file with one class name per line, or a built-in list: {' or '.join(CLASS_LISTS)}. Pass a file of "
    f"that name as ./{CLASS_LISTS[0]}.",
    "head": "Replace the head: an npz or safetensors file with kernel [D, classes] and bias [classes], as from vmoe "
    "fewshot.",
}
"""The help of each option, in the order of `--help`."""

_METAVARS = {
    "config": "model.json",
    "preset": "NAME",
    "group": "image|batch|N|tokens:S",
    "image_size": "PX|HxW",
    "batch_size": "N",
    "capacity_multiple_of": "N",
    "heads": "N",
    "ensemble_size": "M",
    "architecture": "NAME",
    "preprocess": "STEPS",
    "class_names": "FILE|LIST",
    "head": "FILE",
    "layers": "N,...",
}


def _image_size(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", value)
    if not match:
        raise click.BadParameter(f"'{value}' is not a number of pixels, such as 384, or HxW, such as 224x384.")
    return int(match[1]), int(match[2] or match[1])


def _layers(context: click.Context, parameter: click.Parameter, value: str | None) -> list[int] | None:
    if value is None:
        return None
    if not re.fullmatch(r"\d{1,6}(,\d{1,6})*", value, re.ASCII):
        raise click.BadParameter(f"'{value}' is not a list of block numbers, such as 3,6,9.")
    return [int(number) for number in value.split(",")]


_READERS = {"image_size": _image_size, "layers": _layers}


def field_option(name: str) -> Callable[[F], F]:
    """Return the click option for a field of ExportOptions.

    A bool field becomes a flag. A field with a fixed set of values becomes a choice. Any other option takes a value of the
    field's type.
    """
    word, values, default = f"--{name.replace('_', '-')}", FIELD_VALUES.get(name), getattr(ExportOptions, name)
    if values == (True, False):
        words = word if default is False else f"{word}/--no-{word.removeprefix('--')}"
        return click.option(words, is_flag=True, default=default, help=FIELD_HELP[name])
    kind: Any = None
    if values:
        kind = click.Choice(values)
    elif int in FIELD_TYPES[name]:
        kind = click.IntRange(1)
    elif os.PathLike in FIELD_TYPES[name]:
        kind = click.Path(path_type=Path)
    settings: dict[str, Any] = {
        "type": kind,
        "callback": _READERS.get(name),
        "default": default,
        "show_default": default is not None,
    }
    return click.option(word, metavar=_METAVARS.get(name), help=FIELD_HELP[name], **settings)


def field_options(command: F) -> F:
    """Add an option for each field in FIELD_HELP. `vmoe_tools.options.stored_options` adds the options for settings."""
    for name in reversed(FIELD_HELP):
        command = field_option(name)(command)
    return command
