"""ViT in Hugging Face transformers. It may have a classifier, a pooler, or neither of them."""

from __future__ import annotations

from dataclasses import replace

from vmoe_export.families.block_names import Block, Layer
from vmoe_export.families.family import Family
from vmoe_export.families.translation import Translation

_PROJECTIONS = tuple(f"attention.attention.{name}" for name in ("query", "key", "value"))
BLOCK = Block(
    norms=("layernorm_before", "layernorm_after"),
    projections=_PROJECTIONS,
    out="attention.output.dense",
    mlp=("intermediate.dense", "output.dense"),
)


def translate_encoder(
    model: Translation,
    rows: int,
    *tokens: str,
    epsilon: float = 1e-12,
    block: Block = BLOCK,
    is_gelu: bool = True,
) -> None:
    """Translate the part of the model from its input to its last norm.

    Args:
        model: the model.
        rows: number of tokens before the patches that have positions, counted from the first token.
        tokens: names of the tensors that hold the tokens before the patches.
        epsilon: default epsilon of the norms.
        block: names of the layers of a block.
        is_gelu: whether all of the family's released models without a gate have GELU. Models with a gate always have SiLU.
    """
    model.epsilon(epsilon)
    model.begin("gelu", "embeddings.patch_embeddings.projection", is_only=is_gelu, is_swiglu=block.gate is not None)
    model.tokens(*tokens, positions="embeddings.position_embeddings", rows=rows, antialias=len(tokens) > rows)
    has_bias = model.has("encoder.layer.0.attention.attention.query.bias")
    model.claim(qkv_bias=has_bias)
    projections = tuple(Layer.of(name, has_bias) for name in _PROJECTIONS)
    model.encoder("encoder.layer.{}.", replace(block, projections=projections))
    model.norm("Encoder/encoder_norm", "layernorm")


def translate_head(model: Translation) -> None:
    """Translate the classifier, which reads the class token.

    Without a classifier, translate the pooler. Without a pooler as well, translate nothing.
    """
    model.model["classifier"] = "token"
    if model.has("../classifier.weight"):
        model.dense("head", "../classifier")
    elif model.has("pooler.dense.weight"):
        model.setting("pooler_act", "tanh", "tanh")
        model.dense("pre_logits", "pooler.dense")


def _translate(model: Translation) -> None:
    translate_encoder(model, 1, "embeddings.cls_token", is_gelu=False)
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
