"""ViT of Hugging Face transformers: classifiers, and models with or without a pooler."""

from __future__ import annotations

from vmoe_export.families.family import Family
from vmoe_export.families.translation import Translation


def translate_encoder(model: Translation, *tokens: str) -> None:
    """Everything up to the last norm, with these tokens in front of the patches, all of which have positions."""
    model.epsilon(1e-12)
    model.activation(model.setting("hidden_act", "gelu"))
    model.patches("embeddings.patch_embeddings.projection")
    model.choose_heads("num_attention_heads", 12)
    model.claim(hidden_size=model.width)
    model.tokens(*tokens, positions="embeddings.position_embeddings", rows=len(tokens))
    has_bias = model.has("encoder.layer.0.attention.attention.query.bias")
    model.claim(qkv_bias=has_bias)
    for block, ours in model.blocks("encoder.layer.{}.", "num_hidden_layers"):
        model.norm(f"{ours}/LayerNorm_0", f"{block}layernorm_before")
        projections = [f"{block}attention.attention.{name}" for name in ("query", "key", "value")]
        model.attention(f"{ours}/SelfAttention", projections, f"{block}attention.output.dense", has_bias=has_bias)
        model.norm(f"{ours}/LayerNorm_1", f"{block}layernorm_after")
        hidden = model.mlp(f"{ours}/Mlp", f"{block}intermediate.dense", f"{block}output.dense")
        model.claim(intermediate_size=hidden)
    model.norm("Encoder/encoder_norm", "layernorm")


def translate_head(model: Translation) -> None:
    """The classifier of the class token, or else the pooler."""
    model.model["classifier"] = "token"
    if model.has("../classifier.weight"):
        model.dense("head", "../classifier")
    elif model.has("pooler.dense.weight"):
        model.setting("pooler_act", "tanh", "tanh")
        model.dense("pre_logits", "pooler.dense")


def _translate(model: Translation) -> None:
    translate_encoder(model, "embeddings.cls_token")
    translate_head(model)


FAMILY = Family(
    title="ViT (Hugging Face transformers)",
    model_types=("vit",),
    landmarks=("encoder.layer.0.layernorm_before.weight", "embeddings.patch_embeddings.projection.weight"),
    prefixes=("vit.", ""),
    ignored=r"embeddings\.mask_token|pooler\..*",
    processor={"image_processor_type": "ViTImageProcessor"},
    translate=_translate,
)
