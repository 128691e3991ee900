"""Recognizes the family of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable

from vmoe_export.families import clip, clip_moe, dinov2, dinov3, hf_deit, hf_vit, siglip, timm
from vmoe_export.families.family import Family, unwrapped

_MODULES = (clip_moe, siglip, clip, dinov2, dinov3, hf_deit, hf_vit)
FAMILIES: tuple[Family, ...] = (*(module.FAMILY for module in _MODULES), dinov3.TIMM, *timm.FAMILIES)


def family_of(stored: Iterable[str]) -> Family | None:
    """The first family whose landmarks are among the names of a checkpoint's tensors."""
    names = unwrapped(stored)
    return next((family for family in FAMILIES if family.prefix(names) is not None), None)
