"""timm's vision_transformer and deit: plain ViTs with four kinds of pooling.

The models may have a class token, registers and layer scale.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from vmoe_export.errors import ConfigError, OptionError
from vmoe_export.families import open_clip
from vmoe_export.families.block_names import Block, Layer
from vmoe_export.families.family import Family
from vmoe_export.families.translation import FIRST_BLOCK, Translation
from vmoe_export.ops.table import LAYER_NORM_EPSILON

_SIZES: dict[str, tuple[int, int]] = {
    "patch16_gap_224": (768, 16),
    "base_patch16_plus": (896, 14),
    "base_patch32_plus": (896, 14),
    "xsmall": (256, 4),
    "wee": (256, 4),
    "tiny": (192, 3),
    "little": (320, 5),
    "small": (384, 6),
    "medium": (512, 8),
    "betwixt": (640, 10),
    "base": (768, 12),
    "so150m2": (832, 13),
    "so150m": (896, 14),
    "large": (1024, 16),
    "intern300m": (1024, 16),
    "so400m": (1152, 16),
    "huge": (1280, 16),
    "giantopt": (1536, 16),
    "gigantic_patch14_448": (1536, 16),
    "gigantic": (1664, 16),
    "giant_patch14_dinov2": (1536, 24),
    "giant_patch14_reg": (1536, 24),
    "giant": (1408, 16),
}
"""Width and number of heads, by a part of the architecture's name; the first match counts."""
_TANH = r"base_patch32_siglip|(so400m|giantopt)_patch16_siglip|large_patch16_siglip(_gap)?_512"
_GATED = r"giant_patch14_(reg\d_)?(dinov2|tipsv2)"
"""Architectures whose MLPs store the gate and the first layer in one tensor."""
_NO_LAST_NORM = ("intern300m", "_radio_v", "_pe_spatial_", "_pe_lang_")
"""Words in the names of architectures that have no last norm."""
_OTHER_BLOCKS = {
    "_rpn_": "norms after the residual",
    "rope": "rotary positions",
    "_pe_": "rotary positions",
    "dinov3": "rotary positions",
}
"""Features that the tensors don't show, by a part of the architecture's name."""
IMPLIED = {"num_classes", "embed_dim", "depth", "mlp_ratio", "patch_size", "img_size", "in_chans", "global_pool"}
IMPLIED |= {"qkv_bias", "proj_bias", "qk_norm", "init_values", "class_token", "no_embed_class", "reg_tokens"}
IMPLIED |= {"pre_norm", "fc_norm", "scale_attn_norm", "scale_mlp_norm"}
IMPLIED |= {"weight_init", "drop_rate", "drop_path_rate", "pos_drop_rate", "patch_drop_rate"}
IMPLIED |= {"proj_drop_rate", "attn_drop_rate", "dynamic_img_size", "distilled", "pos_embed"}
"""Arguments of timm's models that the tensors imply or that only affect training."""
_READ = {"num_heads", "act_layer", "final_norm"}


def _translate(model: Translation) -> None:
    args, name = read_model_args(model, IMPLIED | _READ), str(model.config.get("architecture", ""))
    if name and not name.startswith(("vit_", "deit", "flexivit")):
        raise ConfigError(f"the architecture {name:.60} is not one of timm's vision_transformer or deit")
    if other := next((what for word, what in _OTHER_BLOCKS.items() if word in name), None):
        raise ConfigError(f"the architecture {name:.60} has {other}, which can't be exported")
    if not (name or "final_norm" in args or model.has("norm.weight") or model.has("fc_norm.weight")):
        raise OptionError("a model without a last norm may be an InternViT or a PE-Spatial; pass --architecture NAME")
    if not name and model.has("norm_pre.weight"):
        raise OptionError(
            "a model with a norm before the first block (norm_pre) may be a CLIP, or a Perception Encoder, whose positions "
            "rotate; pass --architecture NAME"
        )
    model.epsilon(1e-5 if "clip" in name else 1e-6, is_told=bool(name))
    if args.get("act_layer"):  # in timm, act_layer also sets the activation of a gate
        model.activation(args["act_layer"], "the config says act_layer")
    else:
        model.activation(_activation(name) if name else None, f"the architecture {name} has")
    gate = "mlp.fc1" if re.search(_GATED, name) else ""
    translate_vit(model, args, name, partial(translate_blocks, gate=gate))


def translate_vit(
    model: Translation,
    args: Mapping[str, Any],
    name: str,
    blocks: Callable[[Translation], None],
    *,
    rotate: Callable[[Translation, int], None] | None = None,
    has_positions: bool = True,
    pool_heads: int = 0,
) -> None:
    """Translate a model whose epsilon and activation are already set.

    Args:
        model: the model.
        args: the architecture's arguments in the config.
        name: name of the architecture.
        blocks: function that defines the encoder's blocks.
        rotate: function that defines rotary positions, given the model and the number of tokens before the patches. It is
            None if the model has no rotary positions.
        has_positions: whether there is a position embedding.
        pool_heads: number of heads of an attention pool that also reads the tokens before the patches. If `pool_heads` is 0,
            an attention pool reads only the patches and has as many heads as the blocks.
    """
    model.config = {**model.config, **{key: args[key] for key in ("depth", "patch_size", "embed_dim") if key in args}}
    model.patches(Layer.of("patch_embed.proj", model.has("patch_embed.proj.bias")))
    model.claim(num_features=model.width, embed_dim=model.width, pre_norm=model.has("norm_pre.weight"))
    if "num_heads" in args:
        model.config = {**model.config, "num_heads": args["num_heads"]}
        model.choose_heads(model.setting("num_heads", 1), "the config says num_heads")
    else:
        width, heads = next((sizes for word, sizes in _SIZES.items() if word in name), (0, 0))
        model.choose_heads(heads if width == model.width else None, f"the architecture {name} has")
    pooling = _pooling(model, args, name)
    front = _tokens(model, is_read=pooling.startswith("token"), has_positions=has_positions)
    if model.has("norm_pre.weight"):
        model.norm("embedding_norm", "norm_pre", stream=True)
    if rotate:
        rotate(model, front)
    blocks(model)
    _last_norm(model, args, name, pooling)
    _head(model, pooling, pool_heads)


def read_model_args(model: Translation, known: set[str]) -> Mapping[str, Any]:
    """Return the architecture's arguments in the config. Raise ConfigError if an argument is not in `known`."""
    args = model.config.get("model_args") or {}
    if not isinstance(args, Mapping):
        raise ConfigError("the config's 'model_args' must be an object")
    if unknown := sorted(args.keys() - known):
        raise ConfigError(f"the config's model_args have {unknown[0]}, which can't be exported")
    return args


def begin_named(model: Translation, args: Mapping[str, Any], *, epsilon: float, activation: str, head_size: int) -> None:
    """Translate the start of a model whose norms and activation follow from its architecture's name.

    This sets the epsilon, the activation, the patch embedding and the number of heads. If `args` set neither the number of
    heads nor the model's width, each head has `head_size` columns. If `args` set only the width, the user must provide the
    number of heads.
    """
    source = f"the architecture {model.config['architecture']} has"
    model.config = {**model.config, **{key: args[key] for key in ("depth", "patch_size", "num_heads") if key in args}}
    model.epsilon(epsilon, is_told=True)
    model.activation(activation, source)
    model.patches("patch_embed.proj")
    model.claim(num_features=model.width)
    usual = 0 if "embed_dim" in args else model.width // head_size
    model.choose_heads(model.setting("num_heads", usual) or None, source)


def translate_blocks(
    model: Translation,
    first_layer: str = "mlp.fc1",
    second_layer: str = "mlp.fc2",
    *,
    gate: str = "",
    rms: bool = False,
    scales: tuple[str, str] = ("ls1.gamma", "ls2.gamma"),
    count_key: str = "depth",
) -> None:
    """Translate the encoder's blocks.

    Args:
        first_layer, second_layer, gate: names of the MLP layers, with the same meaning as in `Translation.mlp`.
        rms: whether the blocks have RMS norms.
        scales: names of the tensors that scale the outputs of attention and of the MLP, if the model has them.
        count_key: same as in `Translation.blocks`.
    """

    def has(name: str) -> bool:
        return model.has(f"blocks.0.{name}")

    def layer(name: str) -> Layer:
        return Layer.of(name, has("attn.proj.bias"))

    inner = [name for name in ("attn.norm", "mlp.norm") if has(f"{name}.weight")]
    if inner and model.norm_epsilon != LAYER_NORM_EPSILON:
        raise ConfigError(f"{inner[0]}.weight can't be exported with an epsilon other than {LAYER_NORM_EPSILON}")
    block = Block(
        norms=("norm1", "norm2"),
        projections=_projections(has),
        out=layer("attn.proj"),
        mlp=(layer(first_layer), layer(second_layer)),
        gate=layer(gate) if gate else None,
        scales=scales if has(scales[0]) else ("", ""),
        qk_norms=("attn.q_norm", "attn.k_norm") if has("attn.q_norm.weight") else ("", ""),
        attention_norm="attn.norm" if "attn.norm" in inner else "",
        mlp_norm="mlp.norm" if "mlp.norm" in inner else "",
        rms=rms,
    )
    model.encoder("blocks.{}.", block, count_key, size_key="")


def _projections(has: Callable[[str], bool]) -> tuple[Layer, ...]:
    """Return the layers of queries, keys and values.

    `has` takes the name of an optional tensor, and returns whether the first block has this tensor.
    """
    if has("attn.q_proj.weight"):
        return tuple(Layer.of(f"attn.{name}_proj", has(f"attn.{name}_proj.bias")) for name in "qkv")
    bias, mask = (name if has(name) else "" for name in ("attn.qkv.bias", "attn.qkv.bias_mask"))
    layers = Layer("attn.qkv.weight", bias, mask=mask).parts(3)
    if not has("attn.q_bias"):
        return layers
    own = zip(layers, ("attn.q_bias", "", "attn.v_bias"), strict=True)
    return tuple(layer._replace(bias=bias, has_own_bias=True) for layer, bias in own)


def _activation(name: str) -> str:
    if re.search(_GATED, name):
        return "silu"
    return "quick_gelu" if "quickgelu" in name else "gelu_tanh" if re.search(_TANH, name) else "gelu"


def _pooling(model: Translation, args: Mapping[str, Any], name: str) -> str:
    """Return the input of the head, as a value of `ModelConfig.classifier`."""
    has_norm = model.has("fc_norm.weight")
    # In timm, fc_norm goes with the poolings avg, max and avgmax. If the model has fc_norm but its architecture doesn't, or
    # vice versa, the pooling was changed. The architecture's pooling does not apply in that case.
    is_own = model.config.get("fc_norm", has_norm) == has_norm
    said = args.get("global_pool", model.config.get("global_pool") if is_own else None)
    if said not in (None, "token", "avg", "map"):
        raise ConfigError(f"the config says global_pool {said!r:.40}, and only token, avg and map can be exported")
    if model.has("attn_pool.latent"):
        usual = "map"
    else:
        usual = "token" if model.has("cls_token") and not has_norm else "avg"
        is_told = model.has("dist_token") or (is_own and bool(name) and not args.get("fc_norm"))
        said = model.choose("pooling", said, "the config says global_pool", usual if is_told else None)
    pooling = str(said or usual)
    wanted = {"token": "cls_token", "map": "attn_pool.latent"}.get(pooling)
    fits = wanted is None or model.has(wanted)
    if not fits or (usual == "map") != (pooling == "map") or (model.has("dist_token") and pooling != "token"):
        telling = wanted or ("attn_pool.latent" if usual == "map" else "dist_token")
        raise ConfigError(f"the pooling is {pooling}, which doesn't fit the tensors, such as {telling}")
    if pooling == "map" or model.has("dist_token"):
        model.refuse("a norm after an attention pool, or one that a distilled DeiT doesn't use", "fc_norm.weight")
    if model.has("dist_token"):
        return "token+token"
    return {"token": "token", "avg": "gap", "map": "map"}[pooling]


def _tokens(model: Translation, *, is_read: bool, has_positions: bool) -> int:
    """Translate the class token, then registers or DeiT's distillation token.

    Either all of these tokens have positions, or none of them has.

    Returns:
        The number of tokens before the patches.
    """
    names = [name for name in ("cls_token", "dist_token", "reg_token") if model.has(name)]
    count = sum(math.prod(model.shape(name, 3)[:2]) for name in names)
    model.claim(num_prefix_tokens=count)
    if not has_positions:
        return model.tokens(*names, is_read=is_read and bool(names))
    _, tokens, _ = model.shape("pos_embed", 3)
    patches = math.prod(model.trained_grid())
    is_square = math.isqrt(tokens) ** 2 == tokens
    rows = tokens - patches if tokens - patches in (0, count) else 0 if is_square else count
    return model.tokens(*names, positions="pos_embed", rows=rows, antialias=True, is_read=is_read)


def _last_norm(model: Translation, args: Mapping[str, Any], name: str, pooling: str) -> None:
    norm = "fc_norm" if model.has("fc_norm.weight") else "norm"
    if args.get("final_norm", not any(word in name for word in _NO_LAST_NORM)):
        model.norm("Encoder/encoder_norm", norm)
        model.model["norm_after_pooling"] = norm == "fc_norm" and pooling == "gap"
    else:
        model.model["encoder_norm"] = False


def _head(model: Translation, pooling: str, pool_heads: int) -> None:
    model.model["classifier"] = pooling
    if pooling == "map":
        _attention_pool(model, pool_heads)
    if pooling == "token+token" and model.has("head.weight"):
        model.mean_head("head", "head_dist")
    elif pooling == "token+token":
        model.mean_token(2)
    elif model.has("../visual.head.proj.weight"):  # open_clip's name
        has_bias = model.has("../visual.head.proj.bias")
        model.dense("projection", Layer.of("../visual.head.proj", has_bias))
    elif model.has("head.weight"):
        model.dense("projection" if model.prefix else "head", "head")


def _attention_pool(model: Translation, pool_heads: int) -> None:
    model.probe("attn_pool.latent")
    model.model["plain_map_head"] = model.has("blocks.0.attn.q_norm.weight")
    model.model |= {"map_epsilon": model.norm_epsilon, "map_front": bool(pool_heads)}
    if pool_heads and model.width % pool_heads:
        raise ConfigError(f"the attention pool has {pool_heads} heads, which don't divide the hidden size {model.width}")
    model.heads = pool_heads or model.heads  # set only after the blocks, which have their own number of heads
    projections = (Layer.of("attn_pool.q"), *Layer.of("attn_pool.kv").parts(2))
    model.attention("MapHead/MultiHeadDotProductAttention", projections, "attn_pool.proj", stream=False)
    model.norm("MapHead/LayerNorm", "attn_pool.norm")
    model.mlp("MapHead/Mlp", "attn_pool.mlp.fc1", "attn_pool.mlp.fc2", stream=False)
    model.widen("MapHead/Mlp", f"{FIRST_BLOCK}/Mlp")


def named_config(name: str, modules: Sequence[str] = ("vision_transformer", "deit", "eva")) -> dict[str, Any]:
    """Return the config of an architecture in the installed timm.

    The config also contains values that can be checked against the tensors, so that a wrong name is detected.

    Raises:
        ConfigError: the architecture is in none of the timm modules `modules`.
        OptionError: timm has no such architecture, or is not installed.
    """
    try:
        import timm
        import torch
    except ModuleNotFoundError:
        raise OptionError(f"--architecture {name} is looked up in timm, which is not installed; pip install timm") from None
    known, _, tag = name.partition(".")
    if not timm.is_model(known) or (tag and not timm.is_model_pretrained(name)):
        raise OptionError(f"--architecture {name} is not an architecture of timm {timm.__version__}")
    if not timm.models.is_model_in_modules(known, {*modules}):
        raise ConfigError(f"the architecture {known} is not one of timm's {' or '.join(modules)}")
    pictures = timm.get_pretrained_cfg(name)
    with torch.device("meta"):  # without weights
        model: Any = timm.create_model(known)
    return {
        "architecture": known,
        "pretrained_cfg": asdict(pictures) if pictures else {},
        "patch_size": [*model.patch_embed.proj.kernel_size],
        "num_features": model.num_features,
        "pre_norm": "norm_pre.weight" in model.state_dict(),
        "fc_norm": "fc_norm.weight" in model.state_dict(),
        "depth": len(model.blocks),
        "num_prefix_tokens": model.num_prefix_tokens,
        # An EVA model's tensors don't show its pooling, so add the pooling here.
        **({"global_pool": model.global_pool} if timm.models.is_model_in_modules(known, {"eva"}) else {}),
    }


FAMILY = Family(
    title="ViT and DeiT (timm)",
    landmarks=("blocks.0.attn.qkv.weight", "patch_embed.proj.weight"),
    prefixes=("",),
    processor={"interpolation": "bicubic", "crop_pct": 0.9, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    by_name=named_config,
    translate=_translate,
)
_DISTILLED = replace(
    FAMILY,
    title="DeiT with a distillation token (timm)",
    landmarks=(*FAMILY.landmarks, "dist_token"),
    processor={"interpolation": "bicubic", "crop_pct": 0.9},
)


def trunk(family: Family) -> Family:
    """Return a variant of a family, for files of open_clip models.

    In these files, a model of `family` is the tower.
    """
    return replace(
        family,
        title=family.title.replace("timm", "timm's tower in open_clip"),
        prefixes=("visual.trunk.",),
        ignored=open_clip.IGNORED,
        processor=open_clip.PROCESSOR,
        config_files=(open_clip.CONFIG_NAME,),
        by_name=open_clip.named_config,
    )


FAMILIES = (_DISTILLED, FAMILY, replace(trunk(FAMILY), title="timm's tower in open_clip"))
