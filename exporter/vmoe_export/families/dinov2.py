"""DINOv2 of Hugging Face transformers, with and without registers and classifier."""

from __future__ import annotations

from vmoe_export.families import hf_vit
from vmoe_export.families.family import Family
from vmoe_export.families.preprocessing import IMAGENET
from vmoe_export.families.translation import Translation

_SCALES = ("layer_scale1.lambda1", "layer_scale2.lambda1")


def _translate(model: Translation) -> None:
    gate = "mlp.weights_in" if model.has("encoder.layer.0.mlp.weights_in.weight") else ""
    model.config = model.config and {"use_swiglu_ffn": False, **model.config}
    model.claim(use_swiglu_ffn=bool(gate))
    # transformers' DINOv2 ignores these keys.
    unread = ("intermediate_size", "hidden_act") if gate else ("intermediate_size",)
    model.config = {key: value for key, value in model.config.items() if key not in unread}
    registers = ["embeddings.register_tokens"] if model.has("embeddings.register_tokens") else []
    mlp, activation = (("weights_in", "weights_out"), "silu") if gate else (("fc1", "fc2"), "gelu")
    layers = ("norm1", *hf_vit.ATTENTION, "norm2", *(f"mlp.{name}" for name in mlp), *_SCALES)
    tokens = ("embeddings.cls_token", *registers)
    hf_vit.translate_encoder(model, 1, *tokens, epsilon=1e-6, layers=layers, gate=gate, activation=activation)
    model.model["classifier"] = "token"
    if model.has("../classifier.weight"):
        model.model["classifier"] = "token+gap"
        model.dense("head", "../classifier", inputs=2 * model.width)


FAMILY = Family(
    title="DINOv2 (Hugging Face transformers)",
    model_types=("dinov2", "dinov2_with_registers"),
    landmarks=("encoder.layer.0.layer_scale1.lambda1", "embeddings.patch_embeddings.projection.weight"),
    prefixes=("dinov2.", "dinov2_with_registers.", "backbone.", ""),
    any_size=True,
    ignored=r"embeddings\.mask_token",
    processor={"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 256}, **IMAGENET},
    translate=_translate,
)
