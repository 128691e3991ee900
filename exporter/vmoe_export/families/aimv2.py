"""AIMv2 in timm and in Hugging Face transformers. In transformers, it may be part of a larger model's file."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from vmoe_export.checkpoint.base import Array
from vmoe_export.errors import ConfigError
from vmoe_export.families import timm
from vmoe_export.families.block_names import Block, Layer
from vmoe_export.families.family import Family
from vmoe_export.families.image_processors import CLIP_MEAN, CLIP_STD
from vmoe_export.families.translation import Translation
from vmoe_export.model.parameters import POSITION_EMBEDDING

_ATTENTION = [f"attention.{name}_proj" for name in ("q", "k", "v", "out")]
_MLP = ("ffn.up_proj", "ffn.down_proj", "ffn.gate_proj")
_POSITIONS = "embeddings.position_embedding.weight"
_ARGS = {"num_classes", "embed_dim", "depth", "num_heads", "mlp_ratio", "patch_size", "img_size", "in_chans", "global_pool"}
_ARGS |= {"qkv_bias", "proj_bias", "dynamic_img_size"}


def _sines(grid: tuple[int, int], width: int) -> Array:
    """Return fixed positions as float64[patches, D].

    They are the sines and cosines of each patch's column, followed by those of its row.
    """
    if width % 4:
        raise ConfigError(f"sines as positions need a hidden size that is a multiple of 4, not {width}")
    waves = 10_000.0 ** (-np.arange(width // 4) / (width // 4))
    rows, columns = (side.reshape(-1, 1) * waves for side in np.indices(grid))
    return np.concatenate([np.sin(columns), np.cos(columns), np.sin(rows), np.cos(rows)], axis=1)


def _translate(model: Translation) -> None:
    is_native, has_head = not model.has(_POSITIONS), model.has("head.cls_token")
    bias, mlp_bias = (model.has(f"encoder.layers.0.{name}.bias") for name in ("attention.q_proj", "ffn.up_proj"))
    model.claim(is_native=is_native, use_head=has_head, qkv_bias=bias, mlp_bias=mlp_bias)
    model.epsilon(1e-5, key="rms_norm_eps")
    model.begin("silu", "embeddings.patch_embed", is_only=True, heads=8)
    model.norm("patch_norm", "embeddings.rms_norm", has_bias=False, stream=True)
    if is_native:
        table = _sines(model.image_grid(), model.width)
        model.put(POSITION_EMBEDDING, (1, *table.shape), [], lambda: table, stream=True)
    else:
        model.tokens(positions=_POSITIONS)
        side = math.isqrt(model.shape(_POSITIONS, 2)[0])
        if model.image_grid() != (side, side):
            raise ConfigError(f"transformers supports this AIMv2 only with {side} x {side} patches")
    first, second, gate = (Layer.of(name, mlp_bias) for name in _MLP)
    *projections, out = (Layer.of(name, bias) for name in _ATTENTION)
    block = Block(
        norms=("rms_norm1", "rms_norm2"),
        projections=tuple(projections),
        out=out,
        mlp=(first, second),
        gate=gate,
        rms=True,
    )
    model.encoder("encoder.layers.{}.", block)
    model.norm("Encoder/encoder_norm", "rms_norm", has_bias=False)
    if not has_head:
        model.model |= {"classifier": "gap", "pools": False}
        return
    model.model |= {"classifier": "map", "bare_map_head": True}
    model.probe("head.cls_token")
    key, value = (Layer.of(f"head.{name}_proj", bias) for name in "kv")
    model.attention("MapHead/MultiHeadDotProductAttention", (None, key, value), "head.output_proj", stream=False)
    if model.has("../visual_projection.weight"):
        model.dense("projection", Layer("../visual_projection.weight"))


def _translate_timm(model: Translation) -> None:
    name = str(model.config.get("architecture", ""))
    if not name.startswith("aimv2_"):
        raise ConfigError("the tensors may be those of an AIMv2 of timm; pass --architecture NAME")
    args = timm.read_model_args(model, _ARGS)
    timm.begin_named(model, args, epsilon=1e-5, activation="silu", head_size=128)
    pooling = args.get("global_pool", model.config.get("global_pool", "avg"))
    if pooling != "avg":
        raise ConfigError(f"the config says global_pool {pooling!r:.40}, and only avg can be exported")
    model.norm("patch_norm", "patch_embed.norm", has_bias=False, stream=True)
    model.tokens(positions="pos_embed", antialias=True)
    timm.translate_blocks(model, "mlp.fc1_x", "mlp.fc2", gate="mlp.fc1_g", rms=True)
    model.norm("Encoder/encoder_norm", "norm", has_bias=False)
    model.model["classifier"] = "gap"
    if model.has("head.weight"):
        model.dense("head", "head")


FAMILY = Family(
    title="AIMv2 (Hugging Face transformers)",
    model_types=("aimv2_vision_model", "aimv2"),
    landmarks=("encoder.layers.0.ffn.gate_proj.weight", "embeddings.rms_norm.weight"),
    prefixes=("vision_model.", ""),
    config_key="vision_config",
    defaults={"qkv_bias": False, "mlp_bias": False, "use_head": True, "is_native": False},
    ignored=r"embeddings\.position_ids|\.\./(text_model\..*|text_projection\.weight|logit_scale)",
    processor={"image_processor_type": "CLIPImageProcessor"},
    translate=_translate,
)
TIMM = replace(
    timm.FAMILY,
    title="AIMv2 (timm)",
    landmarks=("patch_embed.norm.weight", "blocks.0.mlp.fc1_g.weight"),
    processor={"interpolation": "bicubic", "crop_pct": 1.0, "mean": CLIP_MEAN, "std": CLIP_STD},
    translate=_translate_timm,
)
