"""Recognizes the family of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

from vmoe_export.checkpoint.base import TensorInfo
from vmoe_export.families import (
    aimv2,
    clip,
    clip_moe,
    dinov2,
    dinov3,
    dinov3_timm,
    hf_deit,
    hf_internvl,
    hf_vit,
    siglip,
    timm,
    tipsv2,
)
from vmoe_export.families.family import Family, unwrapped

_MODULES = (aimv2, siglip, clip, dinov2, dinov3, hf_deit, hf_internvl, hf_vit, tipsv2)
FAMILIES: tuple[Family, ...] = (
    *(clip_moe.FAMILY, siglip.NAFLEX),
    *(module.FAMILY for module in _MODULES),
    *(dinov3_timm.META, dinov3_timm.FAMILY, aimv2.TIMM, *timm.FAMILIES),
)


def family_of(tensors: Mapping[str, TensorInfo]) -> Family | None:
    """The first family whose landmarks are among a checkpoint's tensors, which are given by their stored names."""
    names = unwrapped(tensors)

    def fits(family: Family) -> bool:
        prefix = family.prefix(names)
        return prefix is not None and all(
            prefix + name in names and len(tensors[names[prefix + name]].shape) == count
            for name, count in family.dimensions.items()
        )

    return next(filter(fits, FAMILIES), None)
