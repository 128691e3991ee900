"""DINOv3 of Hugging Face transformers and of timm."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np

from vmoe_export.errors import ConfigError
from vmoe_export.families import timm
from vmoe_export.families.family import Family
from vmoe_export.families.translation import Translation

_ATTENTION = [f"attention.{name}_proj" for name in "qkvo"]
_THETA = 100.0
_ARGS = {"num_classes", "embed_dim", "depth", "num_heads", "mlp_ratio", "patch_size", "img_size", "in_chans", "global_pool"}
_SCALES = ("layer_scale1.lambda1", "layer_scale2.lambda1")
_LAYERS = ("norm1", *_ATTENTION, "norm2", "mlp.up_proj", "mlp.down_proj", *_SCALES)


def _rotary(model: Translation, front: int, theta: float) -> None:
    """Coordinates from -1 to 1 at the middle of each patch, (row, column), and angles of halves of a head."""
    if model.image_size is None:
        grid = model.trained_grid()
        if 0 in grid:
            raise ConfigError("neither the tensors nor a config say the image size; pass --image-size HxW")
        model.image_size = grid[0] * model.patch[0], grid[1] * model.patch[1]
    sides = [
        2 * (np.arange(side // patch) + 0.5) / (side // patch) - 1
        for side, patch in zip(model.image_size, model.patch, strict=True)
    ]
    size = model.width // model.heads
    if size % 4:
        raise ConfigError(f"rotary positions need heads of a multiple of 4 columns, not {size}")
    frequencies = 2 * math.pi * theta ** (-np.arange(size // 4) / (size // 4))
    model.rotary(np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, 2), frequencies, front=front, has_halves=True)


def _translate(model: Translation) -> None:
    gate = "mlp.gate_proj" if model.has("layer.0.mlp.gate_proj.weight") else ""
    model.claim(use_gated_mlp=bool(gate))
    model.epsilon(1e-5)
    model.begin("gelu", "embeddings.patch_embeddings", is_only=not gate)
    found = model.tensors.get("embeddings.register_tokens")
    registers = ["embeddings.register_tokens"] if found and 0 not in found.shape else []
    front = model.tokens("embeddings.cls_token", *registers)
    has_bias = [model.has(f"layer.0.{name}.bias") for name in _ATTENTION[:3]]
    model.claim(num_register_tokens=front - 1, **dict(zip(("query_bias", "key_bias", "value_bias"), has_bias, strict=True)))
    if "rope_theta" not in model.config:
        model.taken["rope_theta"] = _THETA
    _rotary(model, front, float(model.setting("rope_theta", _THETA)))
    model.encoder("layer.{}.", _LAYERS, has_bias=has_bias, gate=gate)
    model.norm("Encoder/encoder_norm", "norm")
    model.model["classifier"] = "token"


def _translate_timm(model: Translation) -> None:
    name = str(model.config.get("architecture", ""))
    if not re.search("dinov3|lingbot", name):
        raise ConfigError("the tensors may be those of a DINOv3 of timm; pass --architecture NAME")
    args = timm.read_model_args(model, _ARGS)
    model.config = {**model.config, **{key: args[key] for key in ("depth", "patch_size") if key in args}}
    model.refuse("a gated MLP (SwiGLU)", "blocks.0.mlp.fc1_g.weight")
    model.refuse("biases of queries and values alone", "blocks.0.attn.q_bias")
    model.epsilon(1e-5, is_told=True)
    model.activation("gelu", f"the architecture {name} has")
    model.patches("patch_embed.proj")
    model.claim(num_features=model.width)
    usual = None if "embed_dim" in args else model.width // 64
    model.choose_heads(args.get("num_heads", usual), f"the architecture {name} has")
    pooling = args.get("global_pool", model.config.get("global_pool"))
    if pooling not in ("avg", "token"):
        raise ConfigError(f"the config says global_pool {pooling!r:.40}, and only avg and token can be exported")
    front = model.tokens("cls_token", "reg_token", is_read=pooling == "token")
    _rotary(model, front, _THETA)
    for block, ours in model.blocks("blocks.{}.", "depth"):
        model.norm(f"{ours}/LayerNorm_0", f"{block}norm1")
        first, second = f"{block}gamma_1", f"{block}gamma_2"
        model.fused_attention(f"{ours}/SelfAttention", f"{block}attn.qkv.weight", "", f"{block}attn.proj", scale=first)
        model.norm(f"{ours}/LayerNorm_1", f"{block}norm2")
        model.mlp(f"{ours}/Mlp", f"{block}mlp.fc1", f"{block}mlp.fc2", scale=second)
    model.norm("Encoder/encoder_norm", "norm")
    model.model |= {"classifier": "token" if pooling == "token" else "gap"}
    if model.has("head.weight"):
        model.dense("head", "head")


FAMILY = Family(
    title="DINOv3 (Hugging Face transformers)",
    model_types=("dinov3_vit",),
    landmarks=("layer.0.layer_scale1.lambda1", "layer.0.attention.q_proj.weight"),
    prefixes=("", "model."),
    any_size=True,
    ignored=r"embeddings\.(mask_token|register_tokens)",
    processor={"image_processor_type": "DINOv3ViTImageProcessor"},
    translate=_translate,
)
TIMM = replace(
    timm.FAMILY,
    title="DINOv3 (timm)",
    landmarks=("reg_token", "blocks.0.gamma_1", "patch_embed.proj.weight"),
    translate=_translate_timm,
)
