"""CLIP-MoE's vision tower, a CLIP whose last blocks have experts, and OpenAI's CLIP, which has the same names."""

from __future__ import annotations

from vmoe_export.errors import ConfigError
from vmoe_export.families.family import Family
from vmoe_export.families.preprocessing import CLIP_MEAN, CLIP_STD
from vmoe_export.families.translation import Translation

_DEFAULT_K = 2


def _translate(model: Translation) -> None:
    model.epsilon(1e-5)
    model.activation(model.setting("hidden_act", "quick_gelu"))
    model.patches("conv1", has_bias=False)
    model.heads = model.heads or model.setting("vision_heads", model.width // 64)
    model.tokens("class_embedding", positions="positional_embedding", rows=1)
    model.norm("embedding_norm", "ln_pre", stream=True)
    experts = 0
    for block, ours in model.blocks("transformer.resblocks.{}."):
        model.norm(f"{ours}/LayerNorm_0", f"{block}ln_1")
        names = (f"{block}attn.{name}" for name in ("in_proj_weight", "in_proj_bias", "out_proj"))
        model.fused_attention(f"{ours}/SelfAttention", *names)
        model.norm(f"{ours}/LayerNorm_1", f"{block}ln_2")
        if model.has(f"{block}gate.weight"):
            experts = model.router(f"{ours}/Moe/Router/dense/kernel", f"{block}gate.weight")
            each = [f"{block}experts.{number}." for number in range(experts)]
            model.experts(f"{ours}/Moe/Mlp", each, "c_fc", "c_proj")
        else:
            model.mlp(f"{ours}/Mlp", f"{block}mlp.c_fc", f"{block}mlp.c_proj")
    model.norm("Encoder/encoder_norm", "ln_post")
    model.model["classifier"] = "token"
    model.projection("proj")
    if experts:
        k = model.setting("top_k", min(_DEFAULT_K, experts))
        if not 1 <= k <= experts:
            raise ConfigError(f"the config says top_k {k}, but there are {experts} experts")
        if "top_k" not in model.config:
            model.notes.append(
                f"a CLIP-MoE file does not state the experts per token; assumed: {k}, as in its release; --k N changes it"
            )
        # The original drops no pair: with this ratio, all tokens get a slot.
        dispatcher = {"capacity_factor": experts / k}
        router = {"num_selected_experts": k, "normalize_weights": True, "dispatcher": dispatcher}
        model.model["encoder"] = {"moe": {"router": router}}


FAMILY = Family(
    title="CLIP-MoE's vision tower, OpenAI's CLIP",
    landmarks=("ln_pre.weight", "conv1.weight", "transformer.resblocks.0.attn.in_proj_weight"),
    prefixes=("visual.", ""),
    ignored=r"\.\./(transformer\..*|token_embedding\.weight|ln_final\.(weight|bias)|positional_embedding(_res)?|text_projection"
    r"|logit_scale|input_resolution|context_length|vocab_size)",
    processor={"interpolation": "bicubic", "crop_pct": 1.0, "mean": CLIP_MEAN, "std": CLIP_STD},
    translate=_translate,
)
