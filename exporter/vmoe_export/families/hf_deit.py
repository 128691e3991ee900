"""DeiT in Hugging Face transformers, a ViT with a distillation token and up to two classifiers."""

from __future__ import annotations

from vmoe_export.families import hf_vit
from vmoe_export.families.family import Family
from vmoe_export.families.image_processors import IMAGENET
from vmoe_export.families.translation import Translation

_DISTILLATION = "embeddings.distillation_token"


def _translate(model: Translation) -> None:
    hf_vit.translate_encoder(model, 2, "embeddings.cls_token", _DISTILLATION)
    if model.has("../distillation_classifier.weight"):
        model.model["classifier"] = "token+token"
        model.mean_head("../cls_classifier", "../distillation_classifier")
    else:
        hf_vit.translate_head(model)


FAMILY = Family(
    title="DeiT (Hugging Face transformers)",
    model_types=("deit",),
    landmarks=(*hf_vit.FAMILY.landmarks, _DISTILLATION),
    prefixes=("deit.", ""),
    ignored=hf_vit.FAMILY.ignored,
    processor={"image_processor_type": "DeiTImageProcessor", **IMAGENET},
    translate=_translate,
)
