"""DINOv2 of Hugging Face transformers, with and without registers and classifier."""

from __future__ import annotations

from vmoe_export.families.family import Family
from vmoe_export.families.translation import Translation


def _translate(model: Translation) -> None:
    model.refuse("a gated MLP (SwiGLU)", "encoder.layer.0.mlp.weights_in.weight")
    model.epsilon(1e-6)
    model.activation(model.setting("hidden_act", "gelu"))
    model.patches("embeddings.patch_embeddings.projection")
    model.choose_heads("num_attention_heads", 12)
    model.claim(hidden_size=model.width)
    registers = ["embeddings.register_tokens"] if model.has("embeddings.register_tokens") else []
    model.tokens(
        "embeddings.cls_token",
        *registers,
        positions="embeddings.position_embeddings",
        rows=1,
        antialias=bool(registers),
    )
    has_bias = model.has("encoder.layer.0.attention.attention.query.bias")
    model.claim(qkv_bias=has_bias)
    for block, ours in model.blocks("encoder.layer.{}.", "num_hidden_layers"):
        model.norm(f"{ours}/LayerNorm_0", f"{block}norm1")
        projections = [f"{block}attention.attention.{name}" for name in ("query", "key", "value")]
        out, scale = f"{block}attention.output.dense", f"{block}layer_scale1.lambda1"
        model.attention(f"{ours}/SelfAttention", projections, out, scale=scale, has_bias=has_bias)
        model.norm(f"{ours}/LayerNorm_1", f"{block}norm2")
        model.mlp(f"{ours}/Mlp", f"{block}mlp.fc1", f"{block}mlp.fc2", scale=f"{block}layer_scale2.lambda1")
    model.norm("Encoder/encoder_norm", "layernorm")
    model.model["classifier"] = "token"
    if model.has("../classifier.weight"):
        model.model["classifier"] = "token+gap"
        model.dense("head", "../classifier", inputs=2 * model.width)


FAMILY = Family(
    title="DINOv2 (Hugging Face transformers)",
    model_types=("dinov2", "dinov2_with_registers"),
    landmarks=("encoder.layer.0.layer_scale1.lambda1", "embeddings.patch_embeddings.projection.weight"),
    prefixes=("dinov2.", "dinov2_with_registers.", ""),
    ignored=r"embeddings\.mask_token",
    processor={"image_processor_type": "BitImageProcessor"},
    translate=_translate,
)
