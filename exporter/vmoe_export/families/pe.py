"""Meta's Perception Encoder in timm, or as the tower of an open_clip model."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

from vmoe_export.errors import ConfigError
from vmoe_export.families import timm
from vmoe_export.families.eva import ARGS
from vmoe_export.families.family import Family
from vmoe_export.families.rotary import rotate_by_index
from vmoe_export.families.translation import Translation

_REFERENCES = {"_core_(tiny|small|large)_": 24, "_core_base_": 14, "_core_gigantic_|_(lang|spatial)_": 32}
"""Length of an image's side in rotary coordinates, by a regular expression for the architecture's name."""
_POOL_HEADS = 8


def _translate(model: Translation) -> None:
    name = str(model.config["architecture"])
    args = timm.read_model_args(model, ARGS | {"attn_pool_mlp_ratio"})
    reference = next((size for names, size in _REFERENCES.items() if re.search(names, name)), None)
    if reference is None:
        raise ConfigError(f"the architecture {name} is not a Perception Encoder that can be exported")
    if not model.has("norm_pre.weight"):
        raise ConfigError(f"the architecture {name} has a norm before the first block, but there is no norm_pre.weight")
    model.refuse(f"an attention pool of {name}", *["attn_pool.latent"] * ("_core_" not in name))
    model.epsilon(1e-5, is_told=True)
    model.activation("gelu", f"the architecture {name} has")
    timm.translate_vit(
        model,
        args,
        name,
        partial(timm.translate_blocks, scales=("gamma_1", "gamma_2")),
        rotate=partial(rotate_by_index, reference=reference, offset=float("gigantic" not in name), columns_first=True),
        pool_heads=_POOL_HEADS,
    )


FAMILY: Family = replace(
    timm.FAMILY,
    title="Perception Encoder (timm)",
    landmarks=(*timm.FAMILY.landmarks, "norm_pre.weight"),
    architectures=r"^vit_pe_",
    processor={**timm.FAMILY.processor, "crop_pct": 1.0},
    translate=_translate,
)
FAMILIES = (FAMILY, timm.trunk(FAMILY))
