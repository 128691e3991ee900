"""Recognize the family of a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vmoe_export.checkpoint.base import TensorInfo
from vmoe_export.families import (
    aimv2,
    clip,
    clip_moe,
    dinov2,
    dinov3,
    dinov3_timm,
    eva,
    hf_deit,
    hf_internvl,
    hf_vit,
    pe,
    siglip,
    timm,
    tipsv2,
)
from vmoe_export.families.family import Family, unwrapped

_MODULES = (aimv2, siglip, clip, dinov2, dinov3, hf_deit, hf_internvl, hf_vit, tipsv2)
FAMILIES: tuple[Family, ...] = (
    *(clip_moe.FAMILY, siglip.NAFLEX),
    *(module.FAMILY for module in _MODULES),
    *(eva.REGISTERS, dinov3_timm.META, dinov3_timm.FAMILY, *eva.FAMILIES, aimv2.TIMM, *timm.FAMILIES, *pe.FAMILIES),
)


def family_of(tensors: Mapping[str, TensorInfo]) -> Family | None:
    """Return the first family whose landmarks and dimensions fit `tensors`, or None if no family fits.

    `tensors` are by stored name.
    """
    names = unwrapped(tensors)

    def fits(family: Family) -> bool:
        prefix = family.prefix(names)
        return prefix is not None and all(
            prefix + name in names and len(tensors[names[prefix + name]].shape) == count
            for name, count in family.dimensions.items()
        )

    return next(filter(fits, FAMILIES), None)


def family_by_name(family: Family, config: Mapping[str, Any]) -> Family:
    """Return the family of the architecture that `config` specifies, if that family has all landmarks of `family`.

    Otherwise, return `family`.
    """
    name = str(config.get("architecture", ""))
    named = (each for each in FAMILIES if each.architectures and each.prefixes == family.prefixes)
    fitting = (each for each in named if {*family.landmarks} <= {*each.landmarks} and re.search(each.architectures, name))
    return next(fitting, family)
