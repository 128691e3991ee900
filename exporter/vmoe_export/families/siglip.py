"""SigLIP's vision tower in Hugging Face transformers, also inside the file of the whole model."""

from __future__ import annotations

from vmoe_export.families.clip import LAYERS
from vmoe_export.families.family import Family
from vmoe_export.families.translation import Translation
from vmoe_export.ops.table import LAYER_NORM_EPSILON


def _translate(model: Translation) -> None:
    # Attention pools the stream after its last norm, so scaling the stream can't replace another epsilon.
    model.epsilon(LAYER_NORM_EPSILON, is_only=True)
    model.begin("gelu_tanh", "embeddings.patch_embedding", is_only=True)
    model.tokens(positions="embeddings.position_embedding.weight", rows=0)
    model.encoder("encoder.layers.{}.", LAYERS)
    model.norm("Encoder/encoder_norm", "post_layernorm")
    model.model["classifier"] = "map"
    model.vector("MapHead/probe", "head.probe", (1, 1, model.width))
    attention = "head.attention."
    model.fused_attention(
        "MapHead/MultiHeadDotProductAttention",
        f"{attention}in_proj_weight",
        f"{attention}in_proj_bias",
        f"{attention}out_proj",
        stream=False,
    )
    model.norm("MapHead/LayerNorm", "head.layernorm")
    model.mlp("MapHead/Mlp", "head.mlp.fc1", "head.mlp.fc2", stream=False)


FAMILY = Family(
    title="SigLIP's vision tower (Hugging Face transformers)",
    model_types=("siglip_vision_model", "siglip"),
    landmarks=("head.probe", "encoder.layers.0.self_attn.q_proj.weight"),
    prefixes=("vision_model.", ""),
    config_key="vision_config",
    ignored=r"embeddings\.position_ids|\.\./(text_model\..*|logit_scale|logit_bias)",
    processor={"image_processor_type": "SiglipImageProcessor"},
    translate=_translate,
)
