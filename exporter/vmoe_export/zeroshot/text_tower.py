"""Run the text tower of a CLIP, SigLIP or TIPSv2 with transformers or open_clip. Nothing is downloaded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from vmoe_export.checkpoint.base import Array
from vmoe_export.errors import CheckpointError, ConfigError, OptionError
from vmoe_export.families.open_clip import named_config
from vmoe_export.model.config_file import load_config
from vmoe_export.model.model_facts import mapping
from vmoe_runtime.bundle.manifest import Probabilities

_CONFIG, _OPEN_CLIP_CONFIG = "config.json", "open_clip_config.json"
_TOKENIZERS = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model")
_TEXTS = 64  # texts per batch; larger batches are not faster


@dataclass(frozen=True)
class TextTower:
    """A loaded text tower.

    Attributes:
        encode: function that maps texts to embeddings float32[texts, E]. The embeddings are not normalized.
        scale, bias: a logit is the product of two normalized embeddings, multiplied by scale, plus bias.
        probabilities: how the model was trained to turn logits into probabilities.
    """

    encode: Callable[[Sequence[str]], Array]
    scale: float
    bias: float
    probabilities: Probabilities


@dataclass(frozen=True)
class _Kind:
    """A `model_type` of transformers.

    Most towers run without an attention mask, which would hide the padding. SigLIP needs no mask, because it was trained
    to attend to the padding too. CLIP needs none, because it ignores everything after the end of a text.

    Attributes:
        model: name of the class in transformers.
        probabilities: how logits become probabilities.
        lower_case: whether the model was trained only on lower-case text.
        masks_padding: whether the model was trained with masked padding.
    """

    model: str
    probabilities: Probabilities
    lower_case: bool
    masks_padding: bool = False


_KINDS = {
    "clip": _Kind("CLIPModel", "softmax", False),
    "siglip": _Kind("SiglipModel", "sigmoid", True),
    "siglip2": _Kind("Siglip2Model", "sigmoid", True),
    "tipsv2": _Kind("Tipsv2Model", "softmax", True, masks_padding=True),
}


def open_text_tower(path: Path, architecture: str | None = None) -> TextTower:
    """Load the text tower of a model.

    Args:
        path: the transformers or open_clip folder of a CLIP, SigLIP or TIPSv2, or the file of tensors in such a folder.
        architecture: open_clip's name for the architecture. If it is set, `path` may be a file without a config next to it.

    Raises:
        CheckpointError, ConfigError: the model has no supported text tower, or its tokenizer does not fit it.
        OptionError: the library is not installed, or does not know the architecture.
    """
    if architecture is not None and path.is_file():
        return _open_clip_tower(path, f"--architecture {architecture}", named_config(architecture), architecture, path)
    folder = path if path.is_dir() else path.parent
    own, of_open_clip = folder / _CONFIG, folder / _OPEN_CLIP_CONFIG
    config = load_config(own) if own.is_file() else {}
    if of_open_clip.is_file() and config.get("model_type") not in _KINDS:
        return _open_clip_tower(folder, str(of_open_clip), load_config(of_open_clip), f"local-dir:{folder}")
    if not config:
        place = path if path.is_dir() else f"the folder of {path}"
        raise CheckpointError(
            f"{place} has no {_CONFIG} or {_OPEN_CLIP_CONFIG}, which describe the text tower; copy the model's config and "
            "its tokenizer there, or pass the file of an open_clip model with --architecture NAME"
        )
    return _transformers_tower(folder, config)


def installed(library: str) -> Any:
    """Import a library of the extra `zeroshot`.

    Raises:
        OptionError: the library is not installed, or can't be loaded.
    """
    try:
        return import_module(library)
    except ModuleNotFoundError:
        raise OptionError(f"{library} is not installed; pip install 'vmoe-export[zeroshot]'") from None
    except ImportError as error:
        raise OptionError(f"{library} is installed and can't be loaded: {error}") from None


def _transformers_tower(folder: Path, config: Mapping[str, Any]) -> TextTower:
    kind = _KINDS.get(str(config.get("model_type")))
    if kind is None:
        raise ConfigError(
            f"{folder / _CONFIG} says model_type {config.get('model_type')!r:.40}; only {', '.join(_KINDS)} have a text "
            "tower that vmoe zeroshot runs"
        )
    _check_has_tokenizer(folder)
    transformers = installed("transformers")
    with _quiet(transformers), _loading(folder, "transformers"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model = getattr(transformers, kind.model).from_pretrained(folder, local_files_only=True).float().eval()
    _check_padding(folder, tokenizer)
    length = model.config.text_config.max_position_embeddings

    def embed(texts: Sequence[str]) -> Any:
        texts = [text.lower() for text in texts] if kind.lower_case else list(texts)
        options = {"padding": "max_length", "max_length": length, "truncation": True, "return_tensors": "pt"}
        made = tokenizer(texts, return_attention_mask=True, **options)
        needed = ("input_ids", "attention_mask") if kind.masks_padding else ("input_ids",)
        found = model.get_text_features(**{name: made[name] for name in needed})
        return getattr(found, "pooler_output", found)  # before transformers 5, `found` is the tensor of embeddings itself

    return _tower(model, embed, kind.probabilities)


def _open_clip_tower(
    path: Path, source: str, config: Mapping[str, Any], name: str, weights: Path | None = None
) -> TextTower:
    """Load open_clip's text tower from a folder, or from the file `weights`.

    Args:
        path: the folder or file.
        source: the origin of the config, for messages.
        config: open_clip's config.
        name: open_clip's name for the model.
        weights: the file of tensors. If it is None, the file in the folder is used.
    """
    text = mapping(mapping(config, "model_cfg"), "text_cfg")
    if text.get("hf_model_name"):
        raise ConfigError(f"{source} says hf_model_name, whose text tower vmoe zeroshot does not run")
    if text.get("hf_tokenizer_name") and weights is None:
        _check_has_tokenizer(path)
    open_clip = installed("open_clip")
    with _loading(path, "open_clip"):
        given = None if weights is None else str(weights)
        model = open_clip.create_model(name, given, device="cpu", precision="fp32").eval()
        tokenizer = open_clip.get_tokenizer(name)
    if text.get("hf_tokenizer_name"):
        _check_padding(path, tokenizer.tokenizer)
    kind: Probabilities = "softmax" if model.logit_bias is None else "sigmoid"
    return _tower(model, lambda texts: model.encode_text(tokenizer(list(texts))), kind)


def _tower(model: Any, embed: Callable[[Sequence[str]], Any], probabilities: Probabilities) -> TextTower:
    def encode(texts: Sequence[str]) -> Array:
        with import_module("torch").inference_mode():
            parts = [embed(texts[start : start + _TEXTS]).float().numpy() for start in range(0, len(texts), _TEXTS)]
        return np.concatenate(parts)

    bias, temperature = getattr(model, "logit_bias", None), getattr(model, "temperature", None)
    scale = model.logit_scale.exp() if temperature is None else 1 / temperature
    return TextTower(encode, scale.item(), 0.0 if bias is None else bias.item(), probabilities)


def _check_has_tokenizer(folder: Path) -> None:
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise CheckpointError(f"{folder} has no tokenizer: none of {', '.join(_TOKENIZERS)} exists; copy the model's")


def _check_padding(folder: Path, tokenizer: Any) -> None:
    if tokenizer.pad_token_id is None:
        raise ConfigError(f"{folder}: the tokenizer has no padding token; tokenizer_config.json can say pad_token")
    if tokenizer.padding_side != "right":
        raise ConfigError(
            f"{folder}: the tokenizer pads on the {tokenizer.padding_side}, and the model was trained with padding on the "
            "right; tokenizer_config.json can say padding_side"
        )


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Turn off the warnings and progress bars of the transformers library inside the `with` block."""
    logging = transformers.utils.logging
    level, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if had_bar:
            logging.enable_progress_bar()


@contextlib.contextmanager
def _loading(path: Path, library: str) -> Iterator[None]:
    """Turn off downloads inside the `with` block, and raise CheckpointError for any error in it."""
    hub: Any = import_module("huggingface_hub.constants")
    before, hub.HF_HUB_OFFLINE = hub.HF_HUB_OFFLINE, True
    try:
        yield
    except Exception as error:  # both libraries raise many types of exceptions
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        version = import_module(library).__version__
        raise CheckpointError(f"{path}: {library} {version} can't load its text tower: {reason}") from None
    finally:
        hub.HF_HUB_OFFLINE = before
