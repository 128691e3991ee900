"""Read open_clip's description of a model.

It is in open_clip_config.json, or is the config that open_clip has for an architecture's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vmoe_export.errors import ConfigError, OptionError
from vmoe_export.families.image_processors import CLIP_MEAN, CLIP_STD
from vmoe_export.model.model_facts import mapping
from vmoe_runtime.errors import shown

CONFIG_NAME = "open_clip_config.json"
PROCESSOR: dict[str, Any] = {"interpolation": "bicubic", "crop_pct": 1.0, "mean": CLIP_MEAN, "std": CLIP_STD}
"""open_clip's default preprocessing, in timm's terms."""

IGNORED = (
    r"\.\./(transformer\..*|token_embedding\.weight|ln_final\.(weight|bias)|positional_embedding(_res)?|text_projection"
    r"|logit_scale|logit_bias|text\..*|input_resolution|context_length|vocab_size)"
)
"""Matches tensors outside the vision tower: those of the text tower, and the sizes in OpenAI's own files."""

_DEFAULTS: dict[str, Any] = {"layers": 12, "width": 768, "head_width": 64, "patch_size": 16}
_DEFAULTS |= {"image_size": 224, "pool_type": "tok", "no_ln_pre": False, "final_ln_after_pool": False, "ls_init_value": None}
_OTHER_BLOCKS = (
    *("attentional_pool", "qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc"),
)
_POOLING = {"tok": "token", "avg": "avg"}
_CROPS = {"shortest": "center", "squash": "squash"}


def is_config(config: Mapping[str, Any]) -> bool:
    """Return whether a config is in open_clip's format."""
    return "model_cfg" in config or "vision_cfg" in config


def tower_config(config: Mapping[str, Any], *, is_timm: bool) -> dict[str, Any]:
    """Translate the vision tower's config to the keys that the module `timm` or `clip_moe` reads.

    Raises:
        ConfigError: the model has a feature that can't be exported. The message contains the feature's config key.
    """
    model = mapping(config, "model_cfg") or config
    vision: dict[str, Any] = {**_DEFAULTS, **mapping(model, "vision_cfg")}
    name = vision.get("timm_model_name")
    if bool(name) != is_timm:
        raise ConfigError(f"the config says timm_model_name {shown(name)}, but the tensors are of another kind of tower")
    if is_timm:
        if vision.get("timm_proj", "linear") == "mlp":
            raise ConfigError("the config says timm_proj 'mlp', which can't be exported")
        pool, is_linear = vision.get("timm_pool", "avg"), vision.get("timm_proj", "linear") == "linear"
        # If a linear layer follows the tower and open_clip's config sets no pooling, the tower uses timm's own pooling.
        return {"architecture": name, "model_args": {} if is_linear and not pool else {"global_pool": pool}}
    if other := next((key for key in _OTHER_BLOCKS if vision.get(key)), None):
        raise ConfigError(f"the config says {other} {shown(vision[other])}, which can't be exported")
    if vision.get("block_type") not in (None, "default"):
        raise ConfigError(f"the config says block_type {shown(vision['block_type'])}, and only 'default' can be exported")
    if vision["pool_type"] not in _POOLING:
        raise ConfigError(
            f"the config says pool_type {shown(vision['pool_type'])}, and only 'tok' and 'avg' can be exported"
        )
    for key in ("width", "head_width"):
        if type(vision[key]) is not int or vision[key] < 1:
            raise ConfigError(f"the config says {key} {shown(vision[key])}, which is not a number of values")
    claimed = {key: vision[key] for key in ("layers", "width", "patch_size", "image_size")}
    return claimed | {
        "vision_heads": vision["width"] // vision["head_width"],
        "hidden_act": _activation(model, vision),
        "layer_norm_eps": _only(vision, "norm_kwargs", "eps", 1e-5),
        "pool_type": _POOLING[vision["pool_type"]],
        "norm_after_pooling": bool(vision["final_ln_after_pool"]),
        "no_ln_pre": bool(vision["no_ln_pre"]),
        "ls_init_value": "null" if vision["ls_init_value"] is None else "a number",
    }


def processor_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the preprocessing to the keys of pretrained_cfg, timm's config."""
    model = mapping(config, "model_cfg") or config
    given = {key: value for key, value in mapping(config, "preprocess_cfg").items() if value is not None}
    size = mapping(model, "vision_cfg").get("image_size", _DEFAULTS["image_size"])
    crop = given.get("resize_mode", "shortest")
    if crop not in _CROPS:
        raise ConfigError(f"the config says resize_mode {shown(crop)}, and only shortest and squash can be exported")
    colours = {
        key: [value] * 3 if isinstance(value, float) else value for key, value in given.items() if key in ("mean", "std")
    }
    # If the interpolation is random in training, open_clip uses bicubic interpolation for evaluation.
    how = "bicubic" if given.get("interpolation") == "random" else given.get("interpolation", "bicubic")
    sides = [3, *size] if isinstance(size, list | tuple) else [3, size, size]
    return {**PROCESSOR, **colours, "interpolation": how, "crop_mode": _CROPS[crop], "input_size": sides}


def named_config(name: str) -> dict[str, Any]:
    """Return the config of an architecture in the installed open_clip.

    If all released models of the architecture have the same preprocessing, the config includes it. Otherwise, open_clip's
    default preprocessing applies.

    Raises:
        OptionError: open_clip is not installed, or has no architecture of this name.
    """
    try:
        import open_clip
    except ModuleNotFoundError:
        raise OptionError(
            f"--architecture {name} is looked up in open_clip, which is not installed; pip install open_clip_torch"
        ) from None
    if name not in open_clip.list_models():
        raise OptionError(f"--architecture {name} is not an architecture of open_clip {open_clip.__version__}")
    tags = [open_clip.get_pretrained_cfg(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name)]
    pictures = [{key: tag.get(key) for key in ("mean", "std", "interpolation", "resize_mode")} for tag in tags]
    agreed = pictures[0] if pictures and all(each == pictures[0] for each in pictures) else {}
    return {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": agreed}


def _activation(model: Mapping[str, Any], vision: Mapping[str, Any]) -> str:
    approximate = _only(vision, "act_kwargs", "approximate", "none")
    if model.get("quick_gelu") and not vision.get("act_kwargs"):
        return "quick_gelu"
    if model.get("quick_gelu") or approximate not in ("none", "tanh"):
        raise ConfigError(f"the config says act_kwargs {shown(vision['act_kwargs'])}, which its activation can't have")
    return "gelu_tanh" if approximate == "tanh" else "gelu"


def _only(vision: Mapping[str, Any], key: str, name: str, default: Any) -> Any:
    """Return the argument `name` in the mapping `vision[key]`, or `default` if it is not set.

    Raise ConfigError if the mapping sets any other argument.
    """
    given = mapping(vision, key)
    if other := next((each for each in given if each != name), None):
        raise ConfigError(f"the config's {key} have {shown(other)}, which can't be exported")
    return given.get(name, default)
