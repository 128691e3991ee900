"""DINOv3 in Hugging Face transformers."""

from __future__ import annotations

import math

import numpy as np

from vmoe_export.families.block_names import Block, Layer
from vmoe_export.families.family import Family
from vmoe_export.families.translation import Translation

THETA = 100.0
PROCESSOR = {"image_processor_type": "DINOv3ViTImageProcessor"}
_ATTENTION = [f"attention.{name}_proj" for name in "qkvo"]
_BIASES = {"query_bias": True, "key_bias": False, "value_bias": True, "proj_bias": True, "mlp_bias": True}
_MLP = ("mlp.up_proj", "mlp.down_proj", "mlp.gate_proj")


def rotate(model: Translation, front: int, theta: float = THETA) -> None:
    """Add rotary position embeddings, computed from the row and column of each patch centre.

    Rows and columns range from -1 to 1 across the image.

    Feature p of the first half of each head is rotated together with feature p of the second half.

    Args:
        model: the model, after `tokens` and before `blocks`.
        front: number of tokens before the patches.
        theta: the base of the frequencies.
    """
    sides = [2 * (np.arange(side) + 0.5) / side - 1 for side in model.image_grid()]
    count = model.width // model.heads // 4
    frequencies = 2 * math.pi * theta ** (-np.arange(count) / count)
    model.rotary(np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, 2), frequencies, front=front, has_halves=True)


def _translate(model: Translation) -> None:
    is_gated = model.has("layer.0.mlp.gate_proj.weight")
    has_bias = [model.has(f"layer.0.{name}.bias") for name in (*_ATTENTION, "mlp.up_proj")]
    model.claim(use_gated_mlp=is_gated, **dict(zip(_BIASES, has_bias, strict=True)))
    model.epsilon(1e-5)
    # If the config sets no activation, transformers uses GELU. Released gated models use SiLU.
    model.begin("gelu", "embeddings.patch_embeddings", is_only=not is_gated, heads=6)
    found = model.tensors.get("embeddings.register_tokens")
    registers = ["embeddings.register_tokens"] if found and 0 not in found.shape else []
    front = model.tokens("embeddings.cls_token", *registers)
    model.claim(num_register_tokens=front - 1)
    if "rope_theta" not in model.config:
        model.taken["rope_theta"] = THETA
    rotate(model, front, float(model.setting("rope_theta", THETA)))
    *projections, out = map(Layer.of, _ATTENTION, has_bias)
    first, second, gate = (Layer.of(name, has_bias[4]) for name in _MLP)
    block = Block(
        norms=("norm1", "norm2"),
        projections=tuple(projections),
        out=out,
        mlp=(first, second),
        gate=gate if is_gated else None,
        scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
    )
    model.encoder("layer.{}.", block)
    model.norm("Encoder/encoder_norm", "norm")
    model.model["classifier"] = "token"


FAMILY = Family(
    title="DINOv3 (Hugging Face transformers)",
    model_types=("dinov3_vit",),
    landmarks=("layer.0.layer_scale1.lambda1", "layer.0.attention.q_proj.weight"),
    prefixes=("", "model."),
    defaults={**_BIASES, "use_gated_mlp": False, "num_register_tokens": 0},
    any_size=True,
    ignored=r"embeddings\.(mask_token|register_tokens)",
    processor=PROCESSOR,
    translate=_translate,
)
