"""CLIP's vision tower in Hugging Face transformers, stored alone or in the file of a complete CLIP model."""

from __future__ import annotations

from vmoe_export.families.block_names import Block, Layer
from vmoe_export.families.family import Family
from vmoe_export.families.translation import Translation

BLOCK = Block(
    norms=("layer_norm1", "layer_norm2"),
    projections=tuple(f"self_attn.{name}_proj" for name in "qkv"),
    out="self_attn.out_proj",
    mlp=("mlp.fc1", "mlp.fc2"),
)
"""The layers of a block in CLIP's and SigLIP's towers."""


def _translate(model: Translation) -> None:
    model.epsilon(1e-5)
    model.begin("quick_gelu", Layer("embeddings.patch_embedding.weight"), is_only=False)
    has_classes, positions = model.has("../classifier.weight"), "embeddings.position_embedding.weight"
    model.tokens("embeddings.class_embedding", positions=positions, rows=1, is_read=not has_classes)
    model.norm("embedding_norm", "pre_layrnorm", stream=True)
    model.encoder("encoder.layers.{}.", BLOCK)
    if has_classes:  # the classifier reads the mean of the patches, without the last norm
        model.leave_out("post_layernorm.")
        model.model |= {"classifier": "gap", "encoder_norm": False}
        model.dense("head", "../classifier")
        return
    model.norm("Encoder/encoder_norm", "post_layernorm")
    model.model["classifier"] = "token"
    if model.has("../visual_projection.weight"):
        model.dense("projection", Layer("../visual_projection.weight"))


FAMILY = Family(
    title="CLIP's vision tower (Hugging Face transformers)",
    model_types=("clip_vision_model", "clip"),
    landmarks=("pre_layrnorm.weight", "embeddings.patch_embedding.weight"),
    prefixes=("vision_model.", ""),
    config_key="vision_config",
    ignored=r"embeddings\.position_ids|\.\./(text_model\..*|text_projection\.weight|logit_scale)",
    processor={"image_processor_type": "CLIPImageProcessor"},
    translate=_translate,
)
