"""DINOv2 in Hugging Face transformers, with and without registers and classifier."""

from __future__ import annotations

from dataclasses import replace

from vmoe_export.families import hf_vit
from vmoe_export.families.family import Family
from vmoe_export.families.image_processors import IMAGENET
from vmoe_export.families.translation import Translation

_SCALES = ("layer_scale1.lambda1", "layer_scale2.lambda1")
_MLPS = {
    "mlp.weights_in": ("mlp.weights_in", "mlp.weights_out"),
    "mlp.gate_proj": ("mlp.up_proj", "mlp.down_proj"),
    "": ("mlp.fc1", "mlp.fc2"),
}
"""The two MLP layers by the gate's name: first the names in files, then those in transformers' memory; "" for no gate."""


def _translate(model: Translation) -> None:
    gate = next(name for name in _MLPS if not name or model.has(f"encoder.layer.0.{name}.weight"))
    model.claim(use_swiglu_ffn=bool(gate))
    # For DINOv2, transformers ignores `intermediate_size`.
    model.config = {key: value for key, value in model.config.items() if key != "intermediate_size"}
    registers = ["embeddings.register_tokens"] if model.has("embeddings.register_tokens") else []
    block = replace(hf_vit.BLOCK, norms=("norm1", "norm2"), mlp=_MLPS[gate], gate=gate or None, scales=_SCALES)
    hf_vit.translate_encoder(model, 1, "embeddings.cls_token", *registers, epsilon=1e-6, block=block)
    model.model["classifier"] = "token"
    if model.has("../classifier.weight"):
        model.model["classifier"] = "token+gap"
        model.dense("head", "../classifier", inputs=2 * model.width)


FAMILY = Family(
    title="DINOv2 (Hugging Face transformers)",
    model_types=("dinov2", "dinov2_with_registers"),
    landmarks=("encoder.layer.0.layer_scale1.lambda1", "embeddings.patch_embeddings.projection.weight"),
    prefixes=("dinov2.", "dinov2_with_registers.", "backbone.", ""),
    defaults={"use_swiglu_ffn": False},
    any_size=True,
    ignored=r"embeddings\.mask_token",
    processor={"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 256}, **IMAGENET},
    translate=_translate,
)
