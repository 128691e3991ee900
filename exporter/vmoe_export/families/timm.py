"""timm's vision_transformer and deit: plain ViTs, with or without class token, registers and layer scale; four poolings."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vmoe_export.errors import ConfigError
from vmoe_export.families.family import Family
from vmoe_export.families.translation import Translation

_HEAD_WIDTHS = {
    "so400m": 72,
    "huge": 80,
    "giantopt": 96,
    "gigantic": 104,
    "giant": 88,
    "vit_base_patch16_gap_224": 48,
}
"""The width of a head by a word in the name of the architecture; the first that fits counts. All others have 64."""
_TANH = r"base_patch32_siglip|(so400m|giantopt)_patch16_siglip|large_patch16_siglip(_gap)?_512"
_OTHER_BLOCKS = {
    "_rpn_": "norms after the residual",
    "rope": "rotary positions",
    "_pe_": "rotary positions",
    "dinov3": "rotary positions",
}
"""By a word in the name of an architecture: what its tensors don't show."""
_IMPLIED = {"num_classes", "embed_dim", "depth", "mlp_ratio", "patch_size", "img_size", "in_chans", "global_pool"}
_IMPLIED |= {"qkv_bias", "qk_norm", "init_values", "class_token", "no_embed_class", "reg_tokens", "pre_norm", "fc_norm"}
_IMPLIED |= {"final_norm", "weight_init", "drop_rate", "drop_path_rate", "pos_drop_rate", "patch_drop_rate"}
_IMPLIED |= {"proj_drop_rate", "attn_drop_rate", "dynamic_img_size", "distilled", "pos_embed"}
_READ = {"num_heads", "act_layer"}


def _translate(model: Translation) -> None:
    args, name = model.config.get("model_args") or {}, str(model.config.get("architecture", ""))
    if not isinstance(args, Mapping):
        raise ConfigError("the config's 'model_args' must be an object")
    if unknown := sorted(args.keys() - _IMPLIED - _READ):
        raise ConfigError(f"the config's model_args have {unknown[0]}, which can't be exported")
    if name and not name.startswith(("vit_", "deit", "flexivit")):
        raise ConfigError(f"the architecture {name} is not one of timm's vision_transformer or deit")
    if other := next((what for word, what in _OTHER_BLOCKS.items() if word in name), None):
        raise ConfigError(f"the architecture {name} has {other}, which can't be exported")
    model.epsilon(1e-5 if "clip" in name else 1e-6)
    model.activation(args.get("act_layer") or _activation(name))
    model.patches("patch_embed.proj", has_bias=model.has("patch_embed.proj.bias"))
    _choose_heads(model, args, name)
    pooling = _pooling(model)
    _tokens(model, is_read=pooling.startswith("token"))
    if model.has("norm_pre.weight"):
        model.norm("embedding_norm", "norm_pre", stream=True)
    has_bias, has_scales = model.has("blocks.0.attn.qkv.bias"), model.has("blocks.0.ls1.gamma")
    for block, ours in model.blocks("blocks.{}."):
        first, second = (f"{block}ls1.gamma", f"{block}ls2.gamma") if has_scales else ("", "")
        model.norm(f"{ours}/LayerNorm_0", f"{block}norm1")
        bias = f"{block}attn.qkv.bias" if has_bias else ""
        model.fused_attention(f"{ours}/SelfAttention", f"{block}attn.qkv.weight", bias, f"{block}attn.proj", scale=first)
        if model.has("blocks.0.attn.q_norm.weight"):
            model.head_norms(f"{ours}/SelfAttention", f"{block}attn.q_norm", f"{block}attn.k_norm")
        model.norm(f"{ours}/LayerNorm_1", f"{block}norm2")
        model.mlp(f"{ours}/Mlp", f"{block}mlp.fc1", f"{block}mlp.fc2", scale=second)
    _head(model, pooling)


def _activation(name: str) -> str:
    return "quick_gelu" if "quickgelu" in name else "gelu_tanh" if re.search(_TANH, name) else "gelu"


def _choose_heads(model: Translation, args: Mapping[str, Any], name: str) -> None:
    if "num_heads" in args:
        model.config = {**model.config, "num_heads": args["num_heads"]}
        model.choose_heads("num_heads", 0)
    elif name and model.heads is None:
        width = next((size for word, size in _HEAD_WIDTHS.items() if word in name), 64)
        model.heads = model.width // width


def _pooling(model: Translation) -> str:
    """The input of the head, as a value of `ModelConfig.classifier`."""
    usual = "token" if model.has("cls_token") and not model.has("fc_norm.weight") else "avg"
    pooling = "map" if model.has("attn_pool.latent") else str(model.config.get("global_pool") or usual)
    if pooling not in ("token", "avg", "map"):
        raise ConfigError(f"the config says global_pool {pooling!r}, but only token, avg and map can be exported")
    if pooling == "token" and model.has("head_dist.weight"):
        return "token+token"
    return {"token": "token", "avg": "gap", "map": "map"}[pooling]


def _tokens(model: Translation, *, is_read: bool) -> None:
    """The class token, then registers or DeiT's distillation token; either all of them have positions or none."""
    names = [name for name in ("cls_token", "dist_token", "reg_token") if model.has(name)]
    count = sum(math.prod(model.shape(name, 3)[:2]) for name in names)
    _, tokens, _ = model.shape("pos_embed", 3)
    patches = math.prod(model.trained_grid())
    is_square = math.isqrt(tokens) ** 2 == tokens
    rows = tokens - patches if tokens - patches in (0, count) else 0 if is_square else count
    model.tokens(*names, positions="pos_embed", rows=rows, antialias=True, is_read=is_read)


def _head(model: Translation, pooling: str) -> None:
    norm = "fc_norm" if model.has("fc_norm.weight") else "norm"
    model.norm("Encoder/encoder_norm", norm)
    model.model |= {"classifier": pooling, "norm_after_pooling": norm == "fc_norm" and pooling == "gap"}
    if pooling == "map":
        _attention_pool(model)
    if pooling == "token+token":
        model.mean_head("head", "head_dist")
    elif model.has("head.weight"):
        model.dense("head", "head")


def _attention_pool(model: Translation) -> None:
    model.vector("MapHead/probe", "attn_pool.latent", (1, 1, model.width))
    names = ("attn_pool.kv.weight", "attn_pool.kv.bias", "attn_pool.proj")
    model.fused_attention("MapHead/MultiHeadDotProductAttention", *names, stream=False, query="attn_pool.q")
    model.norm("MapHead/LayerNorm", "attn_pool.norm")
    model.mlp("MapHead/Mlp", "attn_pool.mlp.fc1", "attn_pool.mlp.fc2", stream=False)


FAMILY = Family(
    title="ViT and DeiT (timm)",
    landmarks=("blocks.0.attn.qkv.weight", "patch_embed.proj.weight"),
    prefixes=("",),
    processor={"interpolation": "bicubic", "crop_pct": 0.9, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    translate=_translate,
)
_DISTILLED = replace(
    FAMILY,
    title="DeiT with a distillation token (timm)",
    landmarks=(*FAMILY.landmarks, "dist_token"),
    processor={"interpolation": "bicubic", "crop_pct": 0.9},
)
FAMILIES = (_DISTILLED, FAMILY)
