"""Presets: what the tensors of the checkpoints that google-research/vmoe released can't say about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from vmoe_export.preprocessing_steps import default_steps


@dataclass(frozen=True)
class Preset:
    """One released checkpoint.

    Attributes:
        name: the prefix of its files.
        description: what it is, in a few words, and what of this is assumed.
        config: its model config under the official field names.
        image_size: (height, width) in pixels.
        preprocess: the official steps that make an image of a picture.
        class_names: a list of `class_names.CLASS_LISTS`; None where there is none.
    """

    name: str
    description: str
    config: Mapping[str, Any]
    image_size: tuple[int, int]
    preprocess: str
    class_names: str | None


class _Size(NamedTuple):
    """A standard size of configs/vmoe_paper; `patch` is the side of a patch in pixels."""

    patch: int
    hidden_size: int
    num_layers: int
    mlp_dim: int
    num_heads: int
    moe_layers: tuple[int, ...]


_S32_LAST_2 = _Size(32, 512, 8, 2048, 8, (5, 7))
_B16_EVERY_2 = _Size(16, 768, 12, 3072, 12, (1, 3, 5, 7, 9, 11))
_EXPERTS = 8
_CLASS_LISTS = {1000: "imagenet1k", 100: "cifar100"}


def _preset(
    name: str,
    description: str,
    size: _Size,
    pixels: int,
    classes: int,
    *,
    pre_logits: bool = False,
    k: int = 2,
    capacity_factor: float = 1.05,
    members: int = 1,
    images_per_group: int = 8,
) -> Preset:
    tokens = (pixels // size.patch) ** 2 + 1
    moe = {
        "num_experts": _EXPERTS,
        "layers": list(size.moe_layers),
        "group_size": images_per_group * tokens * members,
        "router": {
            "num_selected_experts": k,
            "dispatcher": {
                "name": "einsum",
                "bfloat16": True,
                "capacity_factor": capacity_factor,
                "batch_priority": False,
            },
        },
        **({"ensemble_size": members} if members > 1 else {}),
    }
    config = {
        "name": "VisionTransformerMoeEnsemble" if members > 1 else "VisionTransformerMoe",
        "num_classes": classes,
        "patch_size": [size.patch, size.patch],
        "hidden_size": size.hidden_size,
        "classifier": "token",
        "representation_size": size.hidden_size if pre_logits else None,
        "encoder": {
            "num_layers": size.num_layers,
            "mlp_dim": size.mlp_dim,
            "num_heads": size.num_heads,
            "moe": moe,
        },
    }
    # The defaults are what the official configs do at 224 px and at other sizes.
    steps = str(default_steps(pixels, pixels))
    return Preset(name, description, config, (pixels, pixels), steps, _CLASS_LISTS.get(classes))


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
    """The preset whose name is in a file's name; the longest where there are several."""
    found = [preset for name, preset in PRESETS.items() if name in file_name]
    return max(found, key=lambda preset: len(preset.name), default=None)
