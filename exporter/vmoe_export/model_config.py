"""The description of one model: inferred from its tensors, completed by an official config and by flags."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from vmoe_export.errors import ConfigError, OptionError
from vmoe_export.routing_config import ExpertsChoice, RoutingConfig, Soft, TopK
from vmoe_export.small_file import read_small
from vmoe_runtime.capacity import Rounding

Classifier = Literal["token", "0", "gap", "map"]
PositionEmbedding = Literal["learned", "sincos2d", "none"]
Origin = Literal["inferred", "config", "flag", "default"]
Shapes = Mapping[str, tuple[int, ...]]

_BLOCK = re.compile(r"Encoder/encoderblock_(0|[1-9]\d*)/")
_DEFAULT_IMAGE_SIZE = (224, 224)
_DEFAULT_CAPACITY_RATIO = 1.05
_DEFAULT_EXPERTS_CHOICE_RATIO = 1.0
_DEFAULT_K = 2
_ROUTERS: Mapping[str, Literal["top-k", "experts-choice", "soft"]] = {
    "NoisyTopExpertsPerItemRouter": "top-k",
    "NoisyTopItemsPerExpertRouter": "experts-choice",
    "SoftRouter": "soft",
}
"""Routing kind by the name of the official class."""


@dataclass(frozen=True)
class MoeConfig:
    """The MoE layers: which blocks they are in, their experts, and how tokens get to these.

    With `dispatch_bf16` tokens are rounded to bfloat16 on their way to the experts and back.
    """

    num_experts: int
    mlp_dim: int
    layers: tuple[int, ...]
    dispatch_bf16: bool
    routing: RoutingConfig


@dataclass(frozen=True)
class ModelConfig:
    """A V-MoE, or a dense ViT when `moe` is None. Sizes are (height, width) in pixels.

    `origins` says for each field where its value comes from: the tensors ("inferred"), the config, a flag or a default.
    """

    image_size: tuple[int, int]
    channels: int
    patch_size: tuple[int, int]
    hidden_size: int
    num_layers: int
    mlp_dim: int
    num_heads: int
    classifier: Classifier
    position_emb: PositionEmbedding
    position_temperature: float
    attention_qk_norm: bool
    representation_size: int | None
    num_classes: int | None
    moe: MoeConfig | None
    origins: Mapping[str, Origin] = dataclasses.field(default_factory=dict, compare=False)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches (rows, columns): a rest smaller than a patch is cut off, as a VALID convolution does."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]

    @property
    def num_tokens(self) -> int:
        """T, the tokens of one image."""
        return math.prod(self.grid) + (self.classifier == "token")

    @property
    def feature_size(self) -> int:
        """Size of what the head gets."""
        return self.representation_size or self.hidden_size

    @property
    def ensemble_size(self) -> int:
        """M, the members of an ensemble of experts (E3); 1 for every other model."""
        routing = self.moe and self.moe.routing
        return routing.ensemble_size if isinstance(routing, TopK) else 1

    def to_json(self) -> dict[str, Any]:
        """The description as it stands in a bundle's manifest."""
        fields = dataclasses.asdict(self)
        fields["origins"] = dict(self.origins)
        return fields


def load_config(path: Path) -> dict[str, Any]:
    """Reads an official model config from JSON; the mapping may stand under a key `model`.

    Raises:
        ConfigError: there is no such file, or it holds no such mapping.
    """
    try:
        config = json.loads(read_small(path))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not readable JSON ({error})") from None
    if isinstance(config, dict) and isinstance(config.get("model"), dict):
        config = config["model"]
    if not isinstance(config, dict):
        raise ConfigError(f"{path} must hold a JSON object")
    return config


def describe_model(
    shapes: Shapes,
    config: Mapping[str, Any] | None = None,
    *,
    image_size: tuple[int, int] | None = None,
    rounding: Rounding | None = None,
    capacity_multiple_of: int | None = None,
    dispatch_bf16: bool | None = None,
    ensemble_size: int | None = None,
    router: Literal["top-k", "experts-choice"] | None = None,
) -> ModelConfig:
    """The model that a checkpoint's tensors make up.

    Args:
        shapes: shape of each tensor, by official parameter name.
        config: an official model config; training-only fields are ignored.
        image_size: (height, width) in pixels. Default: what the position embedding was trained for.
        rounding, capacity_multiple_of, dispatch_bf16, ensemble_size: flags; each beats the config, which beats the default
            ("ceil", 1, False, 1).
        router: the routing kind, which tensors can't tell: those of both are the same. Default: the config's, or "top-k".

    Raises:
        ConfigError: the tensors are not those of a V-MoE or ViT, contradict each other or the config, or the model is of a
            kind that isn't supported.
    """
    reading = _Reading(shapes, config or {})
    flags = {
        "rounding": rounding,
        "capacity_multiple_of": capacity_multiple_of,
        "dispatch_bf16": dispatch_bf16,
        "ensemble_size": ensemble_size,
        "router": router,
    }
    return reading.model(image_size, {key: value for key, value in flags.items() if value is not None})


class _Reading:
    """One reading of the tensors and the config; collects where each value came from."""

    def __init__(self, shapes: Shapes, config: Mapping[str, Any]) -> None:
        self.shapes = shapes
        self.config = config
        self.encoder = _mapping(config, "encoder")
        self.origins: dict[str, Origin] = {}

    def model(self, image_size: tuple[int, int] | None, flags: Mapping[str, Any]) -> ModelConfig:
        patch_h, patch_w, channels, hidden = self._shape("embedding/kernel", 4)
        num_layers = self._num_layers()
        attention = "Encoder/encoderblock_0/SelfAttention"
        _, num_heads, _ = self._shape(f"{attention}/query/kernel", 3)
        moe = self._moe(num_layers, flags)
        dense_block = next((i for i in range(num_layers) if not moe or i not in moe.layers), None)
        if dense_block is not None:
            mlp_dim = self._shape(f"Encoder/encoderblock_{dense_block}/Mlp/Dense_0/kernel", 2)[1]
        else:
            mlp_dim = moe.mlp_dim if moe else 0
        has_head = "head/kernel" in self.shapes
        num_classes = self._shape("head/kernel", 2)[1] if has_head else None
        representation = self._shape("pre_logits/kernel", 2)[1] if "pre_logits/kernel" in self.shapes else None
        classifier = self._classifier()
        position_emb, temperature = self._position_emb()
        self._note("inferred", "channels", "hidden_size", "num_layers", "num_heads", "mlp_dim", "patch_size")
        self._note("inferred", "num_classes", "representation_size", "attention_qk_norm")
        model = ModelConfig(
            image_size=self._image_size(image_size, (patch_h, patch_w), classifier, position_emb),
            channels=channels,
            patch_size=(patch_h, patch_w),
            hidden_size=hidden,
            num_layers=num_layers,
            mlp_dim=mlp_dim,
            num_heads=num_heads,
            classifier=classifier,
            position_emb=position_emb,
            position_temperature=temperature,
            attention_qk_norm=f"{attention}/query_ln/scale" in self.shapes,
            representation_size=representation,
            num_classes=num_classes,
            moe=moe,
            origins=self.origins,
        )
        self._check_config(model)
        if 0 in model.grid:
            raise OptionError(
                f"an image of {_size(model.image_size)} px is smaller than one {_size(model.patch_size)} patch"
            )
        if position_emb == "sincos2d" and (hidden % 4 or hidden < 8):
            raise ConfigError(f"sincos2d position embeddings need a hidden size that is a multiple of 4, not {hidden}")
        return model

    def _note(self, origin: Origin, *fields: str) -> None:
        self.origins.update(dict.fromkeys(fields, origin))

    def _shape(self, name: str, ndim: int) -> tuple[int, ...]:
        shape = self.shapes.get(name)
        if shape is None:
            raise ConfigError(f"the checkpoint has no tensor {name}")
        if len(shape) != ndim or 0 in shape:
            raise ConfigError(f"tensor {name} has shape {shape}, which is not {ndim} sizes above 0")
        return shape

    def _num_layers(self) -> int:
        blocks = {int(match[1]) for name in self.shapes if (match := _BLOCK.match(name))}
        if blocks != set(range(len(blocks))) or not blocks:
            raise ConfigError(f"the checkpoint's encoder blocks are not numbered 0, 1, 2, ... (found {sorted(blocks)[:8]})")
        return len(blocks)

    def _classifier(self) -> Classifier:
        if "cls" in self.shapes:
            inferred: Classifier | None = "token"
        elif any(name.startswith("MapHead/") for name in self.shapes):
            inferred = "map"
        else:
            inferred = None
        given = self.config.get("classifier")
        if given is not None and given not in ("token", "0", "gap", "map"):
            raise ConfigError(f"classifier {given!r} is not known; token, 0, gap and map are")
        if inferred and given not in (None, inferred):
            raise ConfigError(f"the config says classifier {given!r}, but the tensors are those of {inferred!r}")
        if given in ("token", "map") and not inferred:
            raise ConfigError(f"the config says classifier {given!r}, but its tensors are not in the checkpoint")
        self._note("inferred" if inferred else "config" if given else "default", "classifier")
        return inferred or cast(Classifier, given or "gap")

    def _position_emb(self) -> tuple[PositionEmbedding, float]:
        given = _mapping(self.encoder, "position_emb")
        name = given.get("name")
        temperature = _number(given, "temperature", 10_000.0)
        if "Encoder/posembed_input/pos_embedding" in self.shapes:
            if name not in (None, "learned"):
                raise ConfigError(f"the config says position_emb {name!r}, but the checkpoint has a learned one")
            self._note("inferred", "position_emb")
            return "learned", temperature
        if name == "learned":
            raise ConfigError("the config says position_emb 'learned', but the checkpoint has none")
        if name not in (None, "sincos2d", "none"):
            raise ConfigError(f"position_emb {name!r} is not known; learned, sincos2d and none are")
        self._note("config" if name else "default", "position_emb")
        return cast(PositionEmbedding, name or "sincos2d"), temperature

    def _image_size(
        self,
        flag: tuple[int, int] | None,
        patch: tuple[int, int],
        classifier: Classifier,
        position_emb: PositionEmbedding,
    ) -> tuple[int, int]:
        if flag:
            self._note("flag", "image_size")
            return flag
        if position_emb == "learned":
            _, tokens, _ = self._shape("Encoder/posembed_input/pos_embedding", 3)
            patches = tokens - (classifier == "token")
            side = math.isqrt(patches)
            if side * side != patches or not side:
                raise ConfigError(f"the position embedding has {patches} patches, which is no square; give --image-size HxW")
            self._note("inferred", "image_size")
            return side * patch[0], side * patch[1]
        given = _mapping(self.encoder, "position_emb")
        rows, columns = given.get("h"), given.get("w")
        if isinstance(rows, int) and isinstance(columns, int) and rows > 0 and columns > 0:
            self._note("config", "image_size")
            return rows * patch[0], columns * patch[1]
        self._note("default", "image_size")
        return _DEFAULT_IMAGE_SIZE

    def _moe(self, num_layers: int, flags: Mapping[str, Any]) -> MoeConfig | None:
        blocks = [f"Encoder/encoderblock_{i}" for i in range(num_layers)]
        layers = tuple(i for i, b in enumerate(blocks) if any(n.startswith(f"{b}/Moe/") for n in self.shapes))
        if not layers:
            return None
        first = f"{blocks[layers[0]]}/Moe"
        mlp_dim = self._shape(f"{first}/Mlp/Dense_0/kernel", 3)[2]
        given = _mapping(self.encoder, "moe")
        kind = self._kind(first, _mapping(given, "router"), flags)
        dispatcher = _mapping(_mapping(given, "router"), "dispatcher")
        self._note("inferred", "num_experts", "layers")
        routing: RoutingConfig
        if kind == "soft":
            num_experts, routing = self._soft(first, given, flags)
            # The official router knows no other way.
            bf16 = self._setting("dispatch_bf16", dispatcher, "bfloat16", flags, True)
        else:
            if dispatcher.get("capacity") is not None:
                raise ConfigError("the config fixes the dispatcher's capacity to a number; give --capacity instead")
            read = self._top_k if kind == "top-k" else self._experts_choice
            num_experts, routing = read(f"{first}/Router/dense/kernel", given, dispatcher, flags)
            bf16 = self._setting("dispatch_bf16", dispatcher, "bfloat16", flags, False)
        if bf16 not in (True, False):
            raise ConfigError(f"bfloat16 is {bf16!r}, not true or false")
        return MoeConfig(num_experts, mlp_dim, layers, bool(bf16), routing)

    def _kind(
        self, first: str, router: Mapping[str, Any], flags: Mapping[str, Any]
    ) -> Literal["top-k", "experts-choice", "soft"]:
        """The routing kind: Soft MoE has parameters of its own, and the others have the same."""
        name = router.get("name")
        said = None if name is None else _ROUTERS.get(str(name).rpartition(".")[2])
        if name is not None and said is None:
            raise ConfigError(f"the router {name!r} is not supported; {', '.join(_ROUTERS)} are")
        is_soft = f"{first}/Router/mu" in self.shapes
        if is_soft:
            if "router" in flags:
                raise OptionError(f"--router {flags['router']} doesn't fit: the routers' tensors are those of a Soft MoE")
            if said not in (None, "soft"):
                raise ConfigError(f"the config names the router {name!r}, but the tensors are those of a Soft MoE")
            self._note("inferred", "kind")
            return "soft"
        if said == "soft":
            raise ConfigError(f"the config names the router {name!r}, but the tensors are not those of a Soft MoE")
        self._note("flag" if "router" in flags else "config" if said else "default", "kind")
        kind: Literal["top-k", "experts-choice"] = flags.get("router") or said or "top-k"
        return kind

    def _soft(self, first: str, given: Mapping[str, Any], flags: Mapping[str, Any]) -> tuple[int, Soft]:
        """E, and the routing."""
        for field in ("rounding", "capacity_multiple_of", "ensemble_size"):
            if field in flags:
                raise OptionError(f"Soft MoE has no capacity to round and no members: it takes no {field}")
        _, experts, slots = self._shape(f"{first}/Router/mu", 3)
        asked = _mapping(given, "router").get("num_slots")
        if asked is not None and asked != slots:
            raise ConfigError(f"the config says num_slots {asked!r}, but the checkpoint has {slots} slots per expert")
        self._note("inferred", "slots_per_expert")
        return experts, Soft(slots)

    def _top_k(
        self, router: str, given: Mapping[str, Any], dispatcher: Mapping[str, Any], flags: Mapping[str, Any]
    ) -> tuple[int, TopK]:
        """E, and the routing."""
        experts, members = self._experts(router, given, flags)
        most = experts // members
        router_config = _mapping(given, "router")
        k = self._setting("k", router_config, "num_selected_experts", {}, min(_DEFAULT_K, most))
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= most:
            of = "the checkpoint" if members == 1 else f"each of the {members} members"
            raise ConfigError(f"num_selected_experts is {k!r}, but {of} has {most} experts")
        return experts, TopK(k, *self._capacity(dispatcher, flags, _DEFAULT_CAPACITY_RATIO), members)

    def _experts_choice(
        self, router: str, given: Mapping[str, Any], dispatcher: Mapping[str, Any], flags: Mapping[str, Any]
    ) -> tuple[int, ExpertsChoice]:
        """E, and the routing."""
        members = len(self.shapes.get(router, ())) == 3 or flags.get("ensemble_size", 1) != 1
        if members or given.get("ensemble_size") not in (None, 1):
            raise OptionError("experts choice is no routing of ensembles (E3); leave the router or the ensemble size out")
        _, experts = self._shape(router, 2)
        return experts, ExpertsChoice(*self._capacity(dispatcher, flags, _DEFAULT_EXPERTS_CHOICE_RATIO))

    def _capacity(
        self, dispatcher: Mapping[str, Any], flags: Mapping[str, Any], default: float
    ) -> tuple[float, Rounding, int]:
        """The capacity ratio of training, and how places become whole."""
        ratio = self._setting("capacity_ratio", dispatcher, "capacity_factor", {}, default)
        rounding = self._setting("rounding", dispatcher, "capacity_ceil_or_round", flags, "ceil")
        multiple = self._setting("capacity_multiple_of", dispatcher, "capacity_multiple_of", flags, 1)
        if rounding not in ("ceil", "round"):
            raise ConfigError(f"capacity_ceil_or_round is {rounding!r}, not 'ceil' or 'round'")
        if isinstance(multiple, bool) or not isinstance(multiple, int) or multiple < 0:
            raise ConfigError(f"capacity_multiple_of is {multiple!r}, not a whole number")
        number = _number({"capacity_factor": ratio}, "capacity_factor", 0.0)
        return number, cast(Rounding, rounding), max(multiple, 1)

    def _experts(self, router: str, given: Mapping[str, Any], flags: Mapping[str, Any]) -> tuple[int, int]:
        """E, and M, the members of the ensemble.

        A fine-tuned E3 has a router [D, M, E/M]. A pre-trained one has that of a plain V-MoE, [D, E], in which member m owns
        columns m * E/M to (m + 1) * E/M: nothing in the tensors tells them apart.
        """
        shape = self._shape(router, 3 if len(self.shapes.get(router, ())) == 3 else 2)
        experts = math.prod(shape[1:])
        members = self._setting("ensemble_size", given, "ensemble_size", flags, shape[1] if len(shape) == 3 else 1)
        if isinstance(members, bool) or not isinstance(members, int) or members < 1 or experts % members:
            raise ConfigError(f"the ensemble size is {members!r}, which is no whole number that divides {experts} experts")
        if len(shape) == 3:
            if members != shape[1]:
                raise ConfigError(f"the ensemble size is {members}, but the routers are those of {shape[1]} members")
            self._note("inferred", "ensemble_size")
        elif self.origins["ensemble_size"] == "default" and "Ensemble" in str(self.config.get("name")):
            raise ConfigError("the config is that of an ensemble (E3), and names no ensemble_size; give --ensemble-size M")
        return experts, members

    def _setting(self, field: str, given: Mapping[str, Any], key: str, flags: Mapping[str, Any], default: Any) -> Any:
        if field in flags:
            self._note("flag", field)
            return flags[field]
        if key in given:
            self._note("config", field)
            # The official configs write None for "off".
            return 0 if given[key] is None else given[key]
        self._note("default", field)
        return default

    def _check_config(self, model: ModelConfig) -> None:
        """What the config says of the tensors must be so."""
        moe = _mapping(self.encoder, "moe")
        claims: list[tuple[str, Any, Any]] = [
            ("patch_size", self.config.get("patch_size"), model.patch_size),
            ("hidden_size", self.config.get("hidden_size"), model.hidden_size),
            ("encoder.num_layers", self.encoder.get("num_layers"), model.num_layers),
            ("encoder.mlp_dim", self.encoder.get("mlp_dim"), model.mlp_dim),
            ("encoder.num_heads", self.encoder.get("num_heads"), model.num_heads),
            ("encoder.attention_qk_norm", self.encoder.get("attention_qk_norm"), model.attention_qk_norm),
            ("encoder.moe.num_experts", moe.get("num_experts"), model.moe and model.moe.num_experts),
            ("encoder.moe.layers", moe.get("layers"), model.moe and model.moe.layers),
            ("num_classes", self.config.get("num_classes") or None, model.num_classes),
        ]
        if "representation_size" in self.config:
            size = self.config["representation_size"]
            claims.append(("representation_size", size or 0, model.representation_size or 0))
        for name, said, found in claims:
            said = tuple(said) if isinstance(said, list) else said  # noqa: PLW2901
            if said is not None and said != found and not (name == "num_classes" and found is None):
                raise ConfigError(f"the config says {name} {said}, but the checkpoint has {found}")


def _mapping(parent: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = parent.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"the config's {key!r} must be an object, not {value!r}")
    return value


def _number(parent: Mapping[str, Any], key: str, default: float) -> float:
    value = parent.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
        raise ConfigError(f"the config's {key!r} must be a positive number, not {value!r}")
    return float(value)


def _size(pixels: tuple[int, int]) -> str:
    return f"{pixels[0]}x{pixels[1]}"
