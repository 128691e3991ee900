"""InternViT in Hugging Face transformers, stored alone or in the file of a complete InternVL model.

InternViT is the vision tower of InternVL.
"""

from __future__ import annotations

from vmoe_export.errors import ConfigError
from vmoe_export.families.block_names import Block, Layer
from vmoe_export.families.family import Family
from vmoe_export.families.image_processors import IMAGENET
from vmoe_export.families.translation import Translation


def _translate(model: Translation) -> None:
    has_bias, has_qk_norm, has_norm_bias = (
        model.has(f"encoder.layer.0.{name}")
        for name in ("attention.q_proj.bias", "attention.q_norm.weight", "layernorm_before.bias")
    )
    has_norm = model.has("layernorm.weight")
    model.claim(norm_type="layer_norm" if has_norm_bias else "rms_norm", use_mean_pooling=not has_norm)
    model.claim(attention_bias=has_bias, use_qk_norm=has_qk_norm)
    if has_norm and not has_norm_bias:
        raise ConfigError("RMS norms in blocks followed by a layer norm (use_mean_pooling false) can't be exported")
    model.epsilon(1e-6)
    model.begin("gelu", "embeddings.patch_embeddings.projection", is_only=True, heads=16)
    rows, columns = model.trained_grid()
    if rows != columns:
        raise ConfigError("the config's image_size is not square, and transformers resizes only square position embeddings")
    pooling = model.given.get("pooling")
    if pooling is None:
        model.model["pools"] = False
    is_token = pooling is not None and model.choose("pooling", None, "") == "token"
    model.model["classifier"] = "token" if is_token else "gap"
    model.tokens("embeddings.cls_token", positions="embeddings.position_embeddings", rows=1, is_read=is_token)
    if has_qk_norm and model.heads == 1:
        raise ConfigError("a norm of all queries and keys (use_qk_norm) can't be exported with one attention head")
    block = Block(
        norms=("layernorm_before", "layernorm_after"),
        projections=tuple(Layer.of(f"attention.{name}_proj", has_bias) for name in "qkv"),
        out="attention.projection_layer",
        mlp=("mlp.fc1", "mlp.fc2"),
        scales=("lambda_1", "lambda_2"),
        qk_norms=("attention.q_norm", "attention.k_norm") if has_qk_norm else ("", ""),
        wide_qk_norms=True,
        rms=not has_norm_bias,
    )
    model.encoder("encoder.layer.{}.", block)
    if has_norm:
        model.norm("Encoder/encoder_norm", "layernorm")
    else:
        model.model["encoder_norm"] = False


FAMILY = Family(
    title="ViT of InternVL (Hugging Face transformers)",
    model_types=("internvl_vision", "internvl"),
    landmarks=("encoder.layer.0.lambda_1", "encoder.layer.0.attention.projection_layer.weight"),
    prefixes=("vision_tower.", ""),
    config_key="vision_config",
    defaults={"attention_bias": False, "use_qk_norm": False, "norm_type": "layer_norm", "use_mean_pooling": True},
    ignored=r"embeddings\.mask_token|\.\./(language_model|multi_modal_projector|lm_head)\..*",
    processor={"image_processor_type": "CLIPImageProcessor", "size": 448, "crop_size": 448, **IMAGENET},
    translate=_translate,
)
