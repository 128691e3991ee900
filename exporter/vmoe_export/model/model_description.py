"""Describe a model by its tensors, its official config and flags."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

from vmoe_export.errors import ConfigError, OptionError
from vmoe_export.model.model_config import CONFIG_FIELDS, Classifier, ModelConfig, MoeConfig, PositionEmbedding, pixels
from vmoe_export.model.model_facts import ModelFacts, Shapes, mapping, number
from vmoe_export.model.moe_description import describe_moe
from vmoe_export.model.parameters import EXTRA_TOKENS, ROTARY
from vmoe_export.ops.table import ACTIVATIONS

_BLOCK = re.compile(r"Encoder/encoderblock_(0|[1-9]\d*)/")
_FIRST_BLOCK = "Encoder/encoderblock_0"
_DEFAULT_IMAGE_SIZE = (224, 224)
_REPRESENTATIONS = ("pre_logits/kernel", "projection/kernel")

FLAGS = ("image_size", "rounding", "capacity_multiple_of", "dispatch_bf16", "ensemble_size", "router", "normalize")
"""Fields of ExportOptions that describe the model."""


def describe_model(shapes: Shapes, config: Mapping[str, Any] | None = None, **flags: Any) -> ModelConfig:
    """Describe the model that a checkpoint holds.

    If no tensor determines a value, it comes from the flags, or else from the config, or else it is the default. The
    defaults are `rounding` "ceil", `capacity_multiple_of` 1, `dispatch_bf16` False (True for a Soft MoE), `ensemble_size` 1,
    `router` "top-k", `normalize` False, and the `image_size` that the position embedding was trained for.

    Args:
        shapes: shape of each tensor, by official parameter name.
        config: an official model config; training-only fields are ignored.
        flags: the fields `FLAGS` of ExportOptions; None means not set.

    Raises:
        ConfigError: the tensors are not those of a V-MoE or ViT.
        ConfigError: the tensors contradict each other or the config.
        ConfigError: this kind of model is not supported.
        OptionError: a flag does not fit the model.
    """
    facts = ModelFacts(shapes, config or {}, {name: value for name, value in flags.items() if value is not None})
    patch_h, patch_w, channels, hidden = facts.shape("embedding/kernel", 4)
    num_layers = count_layers(facts)
    attention = f"{_FIRST_BLOCK}/SelfAttention"
    _, num_heads, _ = facts.shape(f"{attention}/query/kernel", 3)
    moe = describe_moe(facts, num_layers)
    has_head = "head/kernel" in facts.shapes
    num_classes = facts.shape("head/kernel", 2)[1] if has_head else None
    representation = next((facts.shape(name, 2)[1] for name in _REPRESENTATIONS if name in facts.shapes), None)
    classifier = _classifier(facts)
    position_emb, temperature = _position_emb(facts)
    facts.note("inferred", "channels", "hidden_size", "num_layers", "num_heads", "mlp_dim", "patch_size")
    facts.note("inferred", "num_classes", "representation_size", "attention_qk_norm")
    model = ModelConfig(
        image_size=_image_size(facts, (patch_h, patch_w), classifier, position_emb),
        channels=channels,
        patch_size=(patch_h, patch_w),
        hidden_size=hidden,
        num_layers=num_layers,
        mlp_dim=_mlp_dim(facts, num_layers, moe),
        num_heads=num_heads,
        classifier=classifier,
        position_emb=position_emb,
        position_temperature=temperature,
        attention_qk_norm=f"{attention}/query_ln/scale" in facts.shapes,
        representation_size=representation,
        num_classes=num_classes,
        moe=moe,
        extra_tokens=facts.shape(EXTRA_TOKENS, 3)[1] if EXTRA_TOKENS in facts.shapes else 0,
        patch_norm="patch_norm/scale" in facts.shapes,
        embedding_norm="embedding_norm/scale" in facts.shapes,
        rotary=ROTARY[0] in facts.shapes,
        qk_norm_bias=f"{attention}/query_ln/bias" in facts.shapes,
        attention_norm=f"{attention}/LayerNorm/scale" in facts.shapes,
        mlp_norm=f"{_FIRST_BLOCK}/Mlp/LayerNorm/scale" in facts.shapes,
        gated_mlp=f"{_FIRST_BLOCK}/Mlp/Gate/kernel" in facts.shapes,
        map_heads=_map_heads(facts, num_heads),
        representation_tanh="projection/kernel" not in facts.shapes,
        **{field: _config_field(facts, field, default) for field, default in CONFIG_FIELDS.items()},
        origins=facts.origins,
    )
    _check_config(facts, model)
    own = model.gated_mlp or model.mlp_norm
    if (own and classifier == "map" and not model.bare_map_head) or (moe and (own or model.rms_norm)):
        raise ConfigError("gated MLPs, norms in them and RMS norms can't be exported with experts or an attention pool")
    if 0 in model.grid:
        raise OptionError(f"an image of {pixels(model.image_size)} px is smaller than one {pixels(model.patch_size)} patch")
    if position_emb == "sincos2d" and (hidden % 4 or hidden < 8):
        raise ConfigError(f"sincos2d position embeddings need a hidden size that is a multiple of 4, not {hidden}")
    return model


def _map_heads(facts: ModelFacts, num_heads: int) -> int:
    kernel = facts.shapes.get("MapHead/MultiHeadDotProductAttention/key/kernel", ())
    return kernel[1] if len(kernel) == 3 and kernel[1] != num_heads else 0


def _config_field(facts: ModelFacts, field: str, default: Any) -> Any:
    """Return the value of a field in `CONFIG_FIELDS`.

    Official configs do not have these fields. Therefore, official models get the default values.
    """
    if isinstance(default, float):
        return number(facts.config, field, default)
    choices, value = ACTIVATIONS if field == "activation" else (default, not default), facts.config.get(field, default)
    if value not in choices:
        raise ConfigError(f"the config's {field!r} is {value!r:.60}, not one of {', '.join(map(str, choices))}")
    if field in facts.flags:
        facts.note("flag", field)
        return facts.flags[field]
    if field in facts.config:
        facts.note("config", field)
    return value


def count_layers(facts: ModelFacts) -> int:
    """Count the encoder blocks.

    Raises:
        ConfigError: the blocks are not numbered 0, 1, 2, ...
    """
    blocks = {int(match[1]) for name in facts.shapes if (match := _BLOCK.match(name))}
    if blocks != set(range(len(blocks))) or not blocks:
        raise ConfigError(f"the checkpoint's encoder blocks are not numbered 0, 1, 2, ... (found {sorted(blocks)[:8]})")
    return len(blocks)


def _mlp_dim(facts: ModelFacts, num_layers: int, moe: MoeConfig | None) -> int:
    """Return the hidden size of the dense MLPs.

    If every block has experts, the blocks have no dense MLP. In this case, return the hidden size of the map head's MLP
    or, without a map head, of the experts.
    """
    for i in range(num_layers):
        if moe is None or i not in moe.layers:
            return facts.shape(f"Encoder/encoderblock_{i}/Mlp/Dense_0/kernel", 2)[1]
    of_map_head = "MapHead/Mlp/Dense_0/kernel"
    if of_map_head in facts.shapes:
        return facts.shape(of_map_head, 2)[1]
    return moe.mlp_dim if moe else 0


def _classifier(facts: ModelFacts) -> Classifier:
    fitting: tuple[Classifier, ...] = ("gap", "0")
    if "cls" in facts.shapes:
        fitting = ("token", "token+gap", "token+token")
    elif any(name.startswith("MapHead/") for name in facts.shapes):
        fitting = ("map",)
    inferred = None if fitting[0] == "gap" else fitting[0]
    given = facts.config.get("classifier")
    if given is not None and given not in get_args(Classifier):
        raise ConfigError(f"classifier {given!r:.60} is not known; {', '.join(get_args(Classifier))} are")
    if given not in (None, *fitting):
        why = f"the tensors are those of {inferred!r}" if inferred else "its tensors are not in the checkpoint"
        raise ConfigError(f"the config says classifier {given!r:.60}, but {why}")
    facts.note("inferred" if inferred else "config" if given else "default", "classifier")
    return cast(Classifier, given or fitting[0])


def _position_emb(facts: ModelFacts) -> tuple[PositionEmbedding, float]:
    given = mapping(facts.encoder, "position_emb")
    name = given.get("name")
    temperature = number(given, "temperature", 10_000.0)
    if "Encoder/posembed_input/pos_embedding" in facts.shapes:
        if name not in (None, "learned"):
            raise ConfigError(f"the config says position_emb {name!r:.60}, but the checkpoint has a learned one")
        facts.note("inferred", "position_emb")
        return "learned", temperature
    if name == "learned":
        raise ConfigError("the config says position_emb 'learned', but the checkpoint has none")
    if name not in (None, "sincos2d", "none"):
        raise ConfigError(f"position_emb {name!r:.60} is not known; learned, sincos2d and none are")
    facts.note("config" if name else "default", "position_emb")
    return cast(PositionEmbedding, name or "sincos2d"), temperature


def _image_size(
    facts: ModelFacts, patch: tuple[int, int], classifier: Classifier, position_emb: PositionEmbedding
) -> tuple[int, int]:
    if flag := facts.flags.get("image_size"):
        facts.note("flag", "image_size")
        height, width = flag
        return height, width
    of_config = facts.config.get("image_size")
    if isinstance(of_config, Sequence) and len(of_config) == 2 and all(isinstance(n, int) and n > 0 for n in of_config):
        facts.note("config", "image_size")
        return of_config[0], of_config[1]
    if position_emb == "learned":
        _, tokens, _ = facts.shape("Encoder/posembed_input/pos_embedding", 3)
        patches = tokens - (classifier == "token")
        side = math.isqrt(patches)
        if side * side != patches or not side:
            raise ConfigError(f"the position embedding has {patches} patches, which is not a square; pass --image-size HxW")
        facts.note("inferred", "image_size")
        return side * patch[0], side * patch[1]
    given = mapping(facts.encoder, "position_emb")
    rows, columns = given.get("h"), given.get("w")
    if isinstance(rows, int) and isinstance(columns, int) and rows > 0 and columns > 0:
        facts.note("config", "image_size")
        return rows * patch[0], columns * patch[1]
    facts.note("default", "image_size")
    return _DEFAULT_IMAGE_SIZE


def _check_config(facts: ModelFacts, model: ModelConfig) -> None:
    """Check that the config agrees with the tensors."""
    moe = mapping(facts.encoder, "moe")
    experts = moe.get("num_experts")
    if model.moe and isinstance(experts, int) and experts > model.moe.num_experts:
        experts = None  # the config was written before the model was pruned, so skip the comparison
    mlp_dim = facts.encoder.get("mlp_dim")
    if moe.get("mlp_dim") is not None and not any("/Mlp/" in name and "/Moe/" not in name for name in facts.shapes):
        mlp_dim = None  # there is no dense MLP to compare with
    claims: list[tuple[str, Any, Any]] = [
        ("patch_size", facts.config.get("patch_size"), model.patch_size),
        ("hidden_size", facts.config.get("hidden_size"), model.hidden_size),
        ("encoder.num_layers", facts.encoder.get("num_layers"), model.num_layers),
        ("encoder.mlp_dim", mlp_dim, model.mlp_dim),
        ("encoder.num_heads", facts.encoder.get("num_heads"), model.num_heads),
        ("encoder.attention_qk_norm", facts.encoder.get("attention_qk_norm"), model.attention_qk_norm),
        ("encoder.moe.num_experts", experts, model.moe and model.moe.num_experts),
        ("encoder.moe.mlp_dim", moe.get("mlp_dim"), model.moe and model.moe.mlp_dim),
        ("encoder.moe.layers", moe.get("layers"), model.moe and model.moe.layers),
        ("num_classes", facts.config.get("num_classes") or None, model.num_classes),
    ]
    if "representation_size" in facts.config:
        size = facts.config["representation_size"]
        claims.append(("representation_size", size or 0, model.representation_size or 0))
    for name, claimed, found in claims:
        claimed = tuple(claimed) if isinstance(claimed, list) else claimed  # noqa: PLW2901
        if claimed is not None and claimed != found and not (name == "num_classes" and found is None):
            raise ConfigError(f"the config says {name} {claimed}, but the checkpoint has {found}")
