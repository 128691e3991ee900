"""CLIP's vision tower in Hugging Face transformers, also inside the file of the whole model."""

from __future__ import annotations

from vmoe_export.families.family import Family
from vmoe_export.families.translation import Translation


def _translate(model: Translation) -> None:
    model.epsilon(1e-5)
    model.activation(model.setting("hidden_act", "quick_gelu"))
    model.patches("embeddings.patch_embedding", has_bias=False)
    model.choose_heads("num_attention_heads", 12)
    model.claim(hidden_size=model.width)
    model.tokens("embeddings.class_embedding", positions="embeddings.position_embedding.weight", rows=1)
    model.norm("embedding_norm", "pre_layrnorm", stream=True)
    encoder_blocks(model)
    model.norm("Encoder/encoder_norm", "post_layernorm")
    model.model["classifier"] = "token"
    if model.has("../visual_projection.weight"):
        model.dense("projection", "../visual_projection", has_bias=False)


def encoder_blocks(model: Translation) -> None:
    """The blocks of CLIP's and SigLIP's towers."""
    for block, ours in model.blocks("encoder.layers.{}.", "num_hidden_layers"):
        model.norm(f"{ours}/LayerNorm_0", f"{block}layer_norm1")
        projections = [f"{block}self_attn.{name}_proj" for name in ("q", "k", "v")]
        model.attention(f"{ours}/SelfAttention", projections, f"{block}self_attn.out_proj")
        model.norm(f"{ours}/LayerNorm_1", f"{block}layer_norm2")
        hidden = model.mlp(f"{ours}/Mlp", f"{block}mlp.fc1", f"{block}mlp.fc2")
        model.claim(intermediate_size=hidden)


FAMILY = Family(
    title="CLIP's vision tower (Hugging Face transformers)",
    model_types=("clip_vision_model", "clip"),
    landmarks=("pre_layrnorm.weight", "embeddings.patch_embedding.weight"),
    prefixes=("vision_model.", ""),
    ignored=r"embeddings\.position_ids|\.\./(text_model\..*|text_projection\.weight|logit_scale)",
    processor={"image_processor_type": "CLIPImageProcessor"},
    translate=_translate,
)
