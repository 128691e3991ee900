"""CLIP-MoE's vision tower, which is a CLIP tower with experts in its last blocks.

This module also reads the CLIP models of OpenAI and open_clip, because they have the same tensor names.
"""

from __future__ import annotations

from vmoe_export.errors import ConfigError
from vmoe_export.families import open_clip
from vmoe_export.families.block_names import Block, Layer
from vmoe_export.families.family import Family
from vmoe_export.families.translation import Translation

_DEFAULT_K = 2
_OPENAI = ("../input_resolution", "../context_length", "../vocab_size")
"""Scalars that only OpenAI's own files have."""


def _translate(model: Translation) -> None:
    model.refuse("an attention pool (of CoCa or Perception Encoder)", "attn_pool.query", "attn_pool.probe")
    model.epsilon(1e-5)
    is_openai, has_experts = all(map(model.has, _OPENAI)), any(name.endswith(".gate.weight") for name in model.tensors)
    is_known = is_openai or has_experts
    if not model.has("ln_post.weight"):
        raise ConfigError("a tower without ln_post may be a Perception Encoder under its own names, which can't be exported")
    model.patches(Layer("conv1.weight"))
    model.claim(width=model.width)
    model.activation(model.config.get("hidden_act"), "the config says the activation", "quick_gelu" if is_known else None)
    if is_openai and model.model["activation"] != "gelu_quick":
        raise ConfigError("OpenAI's own files have quick GELU, but the config or an option says another activation")
    said = model.setting("vision_heads", 1) if model.config.get("vision_heads") is not None else None
    model.choose_heads(said, "the config says the number of heads", model.width // 64 if is_known else None)
    model.claim(num_attention_heads=model.heads)
    pooling = model.choose(
        "pooling", model.config.get("pool_type"), "the config says pool_type", "token" if is_known else None
    )
    is_token = pooling == "token"
    model.tokens("class_embedding", positions="positional_embedding", rows=1, antialias=True, is_read=is_token)
    model.claim(no_ln_pre=not model.has("ln_pre.weight"))
    if model.has("ln_pre.weight"):
        model.norm("embedding_norm", "ln_pre", stream=True)
    experts = _blocks(model)
    model.norm("Encoder/encoder_norm", "ln_post")
    is_after = not is_token and model.setting("norm_after_pooling", False)
    model.model |= {"classifier": "token" if is_token else "gap", "norm_after_pooling": is_after}
    model.projection("proj")
    if experts:
        _route(model, experts)


def _blocks(model: Translation) -> int:
    """Translate the encoder's blocks, and return the number of experts."""
    experts, has_scales = 0, model.has("transformer.resblocks.0.ls_1.gamma")
    model.claim(ls_init_value="a number" if has_scales else "null")
    names = Block(
        norms=("ln_1", "ln_2"),
        projections=Layer("attn.in_proj_weight", "attn.in_proj_bias").parts(3),
        out="attn.out_proj",
        mlp=("mlp.c_fc", "mlp.c_proj"),
        scales=("ls_1.gamma", "ls_2.gamma") if has_scales else ("", ""),
    )
    for ours in model.blocks("transformer.resblocks.{}.", "layers"):
        model.attention_block(ours, names)
        if model.has("gate.weight"):
            experts = model.router(f"{ours}/Moe/Router/dense/kernel", "gate.weight")
            each = [f"experts.{number}." for number in range(experts)]
            model.experts(f"{ours}/Moe/Mlp", each, "c_fc", "c_proj")
        else:
            model.mlp(f"{ours}/Mlp", *names.mlp, scale=names.scales[1])
    return experts


def _route(model: Translation, experts: int) -> None:
    k = model.setting("top_k", min(_DEFAULT_K, experts))
    if not 1 <= k <= experts:
        raise ConfigError(f"the config says top_k {k}, but there are {experts} experts")
    if "top_k" not in model.config:
        model.notes.append(
            f"a CLIP-MoE file does not state the experts per token; assumed: {k}, as in its release; --k N changes it"
        )
    # CLIP-MoE never drops a (token, expert) pair. With this ratio, every pair gets a slot.
    dispatcher = {"capacity_factor": experts / k}
    router = {"num_selected_experts": k, "normalize_weights": True, "dispatcher": dispatcher}
    model.model["encoder"] = {"moe": {"router": router}}


FAMILY = Family(
    title="CLIP vision tower (OpenAI, open_clip or CLIP-MoE)",
    landmarks=("class_embedding", "conv1.weight", "transformer.resblocks.0.attn.in_proj_weight"),
    prefixes=("visual.", ""),
    ignored=open_clip.IGNORED,
    processor=open_clip.PROCESSOR,
    config_files=(open_clip.CONFIG_NAME, "config.json"),
    by_name=open_clip.named_config,
    translate=_translate,
)
