"""TIPSv2's vision tower in Hugging Face transformers, alone or in the file of the whole model."""

from __future__ import annotations

from vmoe_export.families import timm
from vmoe_export.families.family import Family
from vmoe_export.families.translation import Translation


def _translate(model: Translation) -> None:
    model.refuse("a DINOv2 under its own names", "blocks.0.mlp.fc1.weight")
    is_gated = model.has("blocks.0.mlp.w12.weight")
    model.epsilon(1e-6)
    model.begin("gelu", "patch_embed.proj", is_only=True, is_swiglu=is_gated)
    model.tokens("cls_token", "register_tokens", positions="pos_embed", rows=1, antialias=True, linear=True)
    _, registers, _ = model.shape("register_tokens", 3)
    model.claim(use_swiglu_ffn=is_gated, num_register_tokens=registers, qkv_bias=model.has("blocks.0.attn.qkv.bias"))
    layers = ("mlp.w12", "mlp.w3") if is_gated else ("mlp.c_fc", "mlp.c_proj")
    timm.translate_blocks(model, *layers, gate="mlp.w12" if is_gated else "", count_key="num_hidden_layers")
    model.norm("Encoder/encoder_norm", "norm")
    model.model["classifier"] = "token"


FAMILY = Family(
    title="TIPSv2's vision tower (Hugging Face transformers)",
    model_types=("tipsv2_vision_model", "tipsv2"),
    landmarks=("register_tokens", "blocks.0.attn.qkv.weight", "patch_embed.proj.weight"),
    prefixes=("vision_encoder.", ""),
    config_key="vision_config",
    defaults={"use_swiglu_ffn": False, "num_register_tokens": 1, "qkv_bias": True},
    any_size=True,
    ignored=r"mask_token|\.\./(text_encoder\..*|temperature)",
    processor={"image_processor_type": "Tipsv2ImageProcessor"},
    translate=_translate,
)
