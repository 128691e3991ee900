"""EVA and EVA-02 in timm, and timm's ViTs with registers and rotary positions.

These models may also be towers of open_clip models, as in EVA-CLIP.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

from vmoe_export.errors import ConfigError, OptionError
from vmoe_export.families import open_clip, timm
from vmoe_export.families.family import Family
from vmoe_export.families.rotary import rotate_by_index
from vmoe_export.families.translation import Translation

ARGS = timm.IMPLIED | {"num_heads", "qkv_fused", "swiglu_mlp", "scale_mlp", "scale_attn_inner", "num_reg_tokens"}
"""Arguments of timm's Eva class that may be set: the number of heads, and those that the tensors imply."""
_ROTARY, _PLAIN = r"^eva02_(tiny|small|base|large)_|_rope_reg\d_gap_", r"^eva_giant_"


def _translate(model: Translation) -> None:
    own_names = (f"blocks.0.{name}.weight" for name in ("mlp.w1", "mlp.w12", "mlp.ffn_ln", "attn.inner_attn_ln"))
    model.refuse("an EVA under its own names, and not timm's,", *own_names)
    name = str(model.config.get("architecture", ""))
    if not name:
        raise OptionError("the tensors may be those of an EVA or a BEiT; pass --architecture NAME")
    if "enormous" in name:
        raise ConfigError(f"the architecture {name} has norms after the residual, which can't be exported")
    if not re.search(f"{_ROTARY}|{_PLAIN}", name):
        raise ConfigError(f"the architecture {name} is not an EVA, but the tensors are (such as q_bias or q_proj)")
    model.refuse("an attention pool of an EVA", "attn_pool.latent")
    model.epsilon(1e-6, is_told=True)
    first, gate = ("mlp.fc1_x", "mlp.fc1_g") if model.has("blocks.0.mlp.fc1_g.weight") else ("mlp.fc1", "")
    if not gate and model.shape("blocks.0.mlp.fc1.weight", 2)[0] == 2 * model.shape("blocks.0.mlp.fc2.weight", 2)[1]:
        gate = first  # one tensor holds both
    model.activation("silu" if gate else "gelu", f"the architecture {name} has")
    blocks = partial(timm.translate_blocks, first_layer=first, gate=gate, scales=("gamma_1", "gamma_2"))
    rotate = partial(rotate_by_index, reference=16) if re.search(_ROTARY, name) else None
    args = timm.read_model_args(model, ARGS)
    timm.translate_vit(model, args, name, blocks, rotate=rotate, has_positions="_rope_" not in name)


FAMILY = Family(
    title="EVA (timm)",
    landmarks=("blocks.0.attn.q_bias", "patch_embed.proj.weight"),
    prefixes=("", "visual."),
    processor={**open_clip.PROCESSOR, "crop_pct": 0.9},
    by_name=timm.FAMILY.by_name,
    translate=_translate,
)
_SPLIT = replace(FAMILY, landmarks=("blocks.0.attn.q_proj.weight", "patch_embed.proj.weight"))
REGISTERS = replace(
    FAMILY,
    title="ViT with registers and rotary positions (timm)",
    landmarks=("reg_token", "blocks.0.gamma_1", "fc_norm.weight", "patch_embed.proj.weight"),
    processor={**timm.FAMILY.processor, "crop_pct": 0.95},
)
FAMILIES = (FAMILY, _SPLIT, timm.trunk(FAMILY), timm.trunk(_SPLIT))
