"""The vision towers of SigLIP and SigLIP 2 in Hugging Face transformers, alone or in the file of a whole model.

SigLIP 2 files with a fixed image size are in SigLIP's format. SigLIP 2 NaFlex reads pictures of any aspect ratio, and
resizes its positions for each picture. A bundle has a single image size, so a NaFlex bundle needs no padding.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from vmoe_export.families.block_names import Layer
from vmoe_export.families.clip import BLOCK
from vmoe_export.families.family import Family
from vmoe_export.families.translation import Translation
from vmoe_export.ops.table import LAYER_NORM_EPSILON


def _translate(model: Translation, *, is_naflex: bool) -> None:
    # Refuse any other epsilon. The translation emulates another epsilon by scaling the residual stream. This has no effect
    # on the attention pool's norm, because that norm comes after the last norm.
    model.epsilon(LAYER_NORM_EPSILON, is_only=True)
    model.begin("gelu_tanh", "embeddings.patch_embedding", is_only=True, is_flat=is_naflex)
    positions = "embeddings.position_embedding.weight"
    model.tokens(positions=positions, rows=0, antialias=is_naflex, linear=is_naflex)
    has_pool = model.has("head.probe")
    model.claim(vision_use_head=has_pool)
    if is_naflex:
        model.claim(num_patches=model.shape(positions, 2)[0])
        model.notes.append("pictures are resized to one size; the library would keep their aspect ratio; see --image-size")
    model.encoder("encoder.layers.{}.", BLOCK)
    model.norm("Encoder/encoder_norm", "post_layernorm")
    if model.has("../classifier.weight"):  # the classifier reads the mean of all tokens, not the attention pool's output
        model.leave_out("head.")
        model.model["classifier"] = "gap"
        model.dense("head", "../classifier")
        return
    if not has_pool:
        model.model |= {"classifier": "gap", "pools": False}
        return
    model.model["classifier"] = "map"
    model.probe("head.probe")
    projections = Layer("head.attention.in_proj_weight", "head.attention.in_proj_bias").parts(3)
    model.attention("MapHead/MultiHeadDotProductAttention", projections, "head.attention.out_proj", stream=False)
    model.norm("MapHead/LayerNorm", "head.layernorm")
    model.mlp("MapHead/Mlp", "head.mlp.fc1", "head.mlp.fc2", stream=False)


FAMILY = Family(
    title="SigLIP's vision tower (Hugging Face transformers)",
    model_types=("siglip_vision_model", "siglip"),
    landmarks=("embeddings.patch_embedding.bias", "post_layernorm.weight", "encoder.layers.0.self_attn.q_proj.weight"),
    prefixes=("vision_model.", ""),
    config_key="vision_config",
    ignored=r"embeddings\.position_ids|\.\./(text_model\..*|logit_scale|logit_bias)",
    processor={"image_processor_type": "SiglipImageProcessor"},
    translate=partial(_translate, is_naflex=False),
)
NAFLEX = replace(
    FAMILY,
    title="SigLIP 2 NaFlex's vision tower (Hugging Face transformers)",
    model_types=("siglip2_vision_model", "siglip2"),
    dimensions={"embeddings.patch_embedding.weight": 2},
    any_size=True,
    processor={"image_processor_type": "Siglip2ImageProcessor"},
    translate=partial(_translate, is_naflex=True),
)
