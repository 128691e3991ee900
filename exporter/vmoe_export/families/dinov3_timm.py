"""DINOv3 in timm, and in Meta's own files."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

from vmoe_export.errors import CheckpointError, ConfigError
from vmoe_export.families import dinov3, timm
from vmoe_export.families.family import Family
from vmoe_export.families.translation import Translation

_ARGS = {"num_classes", "embed_dim", "depth", "num_heads", "mlp_ratio", "patch_size", "img_size", "in_chans", "global_pool"}
_ARGS |= {"qkv_bias", "init_values", "dynamic_img_size", "swiglu_mlp", "swiglu_align_to"}
_PERIODS = "rope_embed.periods"
"""Rotary periods in Meta's files. They are rounded to bfloat16, so we compute exact ones instead, as other libraries do."""


def _translate(model: Translation) -> None:
    name = str(model.config.get("architecture", ""))
    if not re.search("dinov3|lingbot", name):
        raise ConfigError("the tensors may be those of a DINOv3 of timm; pass --architecture NAME")
    args, is_gated = timm.read_model_args(model, _ARGS), model.has("blocks.0.mlp.fc1_g.weight")
    activation = "silu" if is_gated else "gelu"
    timm.begin_named(model, args, epsilon=1e-5, activation=activation, head_size=128 if "7b" in name else 64)
    said = args.get("global_pool", model.config.get("global_pool"))
    if said not in (None, "avg", "token"):
        raise ConfigError(f"the config says global_pool {said!r:.40}, and only avg and token can be exported")
    usual = "token" if "lingbot" in name else "avg"
    pooling = model.choose("pooling", said, "the config says global_pool", usual)
    front = model.tokens("cls_token", "reg_token", is_read=pooling == "token")
    model.claim(num_prefix_tokens=front)
    dinov3.rotate(model, front)
    layers = ("mlp.fc1_x", "mlp.fc2") if is_gated else ("mlp.fc1", "mlp.fc2")
    gate = "mlp.fc1_g" if is_gated else ""
    timm.translate_blocks(model, *layers, gate=gate, scales=("gamma_1", "gamma_2"))
    model.norm("Encoder/encoder_norm", "norm")
    model.model["classifier"] = "token" if pooling == "token" else "gap"
    if model.has("head.weight"):
        model.dense("head", "head")


def _translate_meta(model: Translation) -> None:
    is_gated = model.has("blocks.0.mlp.w1.weight")
    if model.has("blocks.0.attn.qkv.bias") and not model.has("blocks.0.attn.qkv.bias_mask"):
        raise CheckpointError("tensor blocks.0.attn.qkv.bias has no bias_mask, which says whether keys have a bias")
    model.epsilon(1e-5)
    model.activation(None, "", "silu" if is_gated else "gelu")
    model.patches("patch_embed.proj")
    size = 4 * model.shape(_PERIODS, 1)[0] if model.has(_PERIODS) else 0
    if size and model.width % size:
        raise CheckpointError(f"tensor {_PERIODS} is for heads of {size} columns, which don't divide {model.width}")
    model.choose_heads(model.width // size if size else None, f"{_PERIODS} is for heads whose number is")
    front = model.tokens("cls_token", "storage_tokens")
    model.taken["rope_theta"] = dinov3.THETA
    dinov3.rotate(model, front)
    layers = ("mlp.w2", "mlp.w3") if is_gated else ("mlp.fc1", "mlp.fc2")
    timm.translate_blocks(model, *layers, gate="mlp.w1" if is_gated else "")
    model.norm("Encoder/encoder_norm", "norm")
    model.model["classifier"] = "token"


FAMILY = replace(
    timm.FAMILY,
    title="DINOv3 (timm)",
    landmarks=("reg_token", "blocks.0.gamma_1", "patch_embed.proj.weight"),
    processor={"interpolation": "bicubic", "crop_pct": 1.0},
    by_name=partial(timm.named_config, modules=("eva",)),
    translate=_translate,
)
META = Family(
    title="DINOv3 (Meta's own files)",
    landmarks=("storage_tokens", "blocks.0.ls1.gamma", "blocks.0.attn.qkv.weight", "patch_embed.proj.weight"),
    prefixes=("",),
    any_size=True,
    ignored=r"mask_token|local_cls_norm\..*|projectors\..*",
    processor=dinov3.PROCESSOR,
    translate=_translate_meta,
)
