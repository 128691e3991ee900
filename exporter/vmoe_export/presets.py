"""Presets for the checkpoints that google-research/vmoe released.

A preset provides the values that no tensor determines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Preset:
    """One released checkpoint.

    Attributes:
        name: the prefix of the checkpoint's files.
        description: the model, its training data, and which of its values are assumed.
        config: the model config, with the official field names.
        image_size: (height, width) in pixels.
        class_names: a name in `class_names.CLASS_LISTS`. It is None if no list there has the checkpoint's classes.
    """

    name: str
    description: str
    config: Mapping[str, Any]
    image_size: tuple[int, int]
    class_names: str | None


# Standard sizes from configs/vmoe_paper: the side of a patch in pixels, the hidden size, the fields of the
# encoder's config, and the indices of the MoE blocks.
_S32_LAST_2 = (32, 512, {"num_layers": 8, "mlp_dim": 2048, "num_heads": 8}, [5, 7])
_B16_EVERY_2 = (16, 768, {"num_layers": 12, "mlp_dim": 3072, "num_heads": 12}, [1, 3, 5, 7, 9, 11])
_EXPERTS = 8
_CLASS_LISTS = {1000: "imagenet1k", 100: "cifar100"}


def _preset(
    name: str,
    description: str,
    size: tuple[int, int, Mapping[str, int], list[int]],
    pixels: int,
    classes: int,
    *,
    pre_logits: bool = False,
    k: int = 2,
    capacity_factor: float = 1.05,
    members: int = 1,
    images_per_group: int = 8,
) -> Preset:
    patch, width, encoder, layers = size
    dispatcher = {"name": "einsum", "bfloat16": True, "capacity_factor": capacity_factor, "batch_priority": False}
    moe = {
        "num_experts": _EXPERTS,
        "layers": layers,
        "group_size": images_per_group * ((pixels // patch) ** 2 + 1) * members,
        "router": {"num_selected_experts": k, "dispatcher": dispatcher},
        **({"ensemble_size": members} if members > 1 else {}),
    }
    config = {
        "name": "VisionTransformerMoeEnsemble" if members > 1 else "VisionTransformerMoe",
        "num_classes": classes,
        "patch_size": [patch, patch],
        "hidden_size": width,
        "classifier": "token",
        "representation_size": width if pre_logits else None,
        "encoder": {**encoder, "moe": moe},
    }
    return Preset(name, description, config, (pixels, pixels), _CLASS_LISTS.get(classes))


_LIGHT1 = "vmoe_s32_last2_ilsvrc2012_randaug_light1"
_STRONG = "vmoe_b16_imagenet21k_randaug_strong"
_EEE = "eee_s32_last2_ilsvrc2012"

PRESETS: Mapping[str, Preset] = MappingProxyType({
    preset.name: preset
    for preset in (
        _preset(_LIGHT1, "V-MoE S/32, ILSVRC2012, 300 epochs", _S32_LAST_2, 224, 1000, pre_logits=True),
        _preset(
            f"{_LIGHT1}_ft_ilsvrc2012",
            "V-MoE S/32, ILSVRC2012, 300 epochs, fine-tuned on it at 384 px",
            _S32_LAST_2, 384, 1000, capacity_factor=1.5,
        ),
        _preset(
            "vmoe_s32_last2_ilsvrc2012_randaug_medium",
            "V-MoE S/32, ILSVRC2012, 1,000 epochs; without an official config, so light1's is assumed",
            _S32_LAST_2, 224, 1000, pre_logits=True,
        ),
        _preset(_STRONG, "V-MoE B/16, ImageNet-21k, whose classes have no names here", _B16_EVERY_2, 224, 21_843),
        _preset(
            f"{_STRONG}_ft_ilsvrc2012",
            "V-MoE B/16, ImageNet-21k, fine-tuned on ILSVRC2012 at 384 px",
            _B16_EVERY_2, 384, 1000, capacity_factor=1.5,
        ),
        _preset(
            _EEE,
            "E3 S/32, 2 members, ILSVRC2012, 300 epochs; without an official config, so light1's with k = 1 is assumed",
            _S32_LAST_2, 224, 1000, pre_logits=True, k=1, members=2,
        ),
        _preset(
            f"{_EEE}_ft_cifar100",
            "E3 S/32, 2 members, ILSVRC2012, fine-tuned on CIFAR-100 at 128 px",
            _S32_LAST_2, 128, 100, pre_logits=True, k=1, capacity_factor=1.5, members=2, images_per_group=128,
        ),
    )
})  # fmt: skip


def preset_in(file_name: str) -> Preset | None:
    """Return the preset whose name occurs in a file name, or None if no name occurs.

    If several names occur, return the preset with the longest name.
    """
    found = [preset for name, preset in PRESETS.items() if name in file_name]
    return max(found, key=lambda preset: len(preset.name), default=None)
