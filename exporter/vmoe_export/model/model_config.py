"""The description of one model, with one class for each routing kind."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from vmoe_export.ops.table import LAYER_NORM_EPSILON, Activation
from vmoe_runtime.bundle.manifest import Output
from vmoe_runtime.capacity import Rounding
from vmoe_runtime.routing_kinds import RoutingKind

Classifier = Literal["token", "0", "gap", "map", "token+gap", "token+token"]
PositionEmbedding = Literal["learned", "sincos2d", "none"]
Origin = Literal["inferred", "config", "flag", "default"]


@dataclass(frozen=True)
class TopK:
    """Each token chooses its k best experts.

    `k` and `capacity_ratio` are those of training and serve as defaults for profiles; the paper's are 2 and 1.05.
    `ensemble_size` is M, the members of an E3: each has a copy of every token and 1 / M of the experts. 1 is a plain V-MoE.
    With `normalize_weights` a token's weights are divided by their sum, before any pair is dropped.
    """

    k: int
    capacity_ratio: float
    rounding: Rounding
    capacity_multiple_of: int
    ensemble_size: int = 1
    normalize_weights: bool = False
    kind: Literal["top-k"] = "top-k"


@dataclass(frozen=True)
class ExpertsChoice:
    """Each expert chooses its best tokens. `capacity_ratio` is that of training; the official one is 1.0."""

    capacity_ratio: float
    rounding: Rounding
    capacity_multiple_of: int
    kind: Literal["experts-choice"] = "experts-choice"


@dataclass(frozen=True)
class Soft:
    """Soft MoE: an expert gets `slots_per_expert` means of all tokens of a group, as many as the parameters have."""

    slots_per_expert: int
    kind: Literal["soft"] = "soft"


RoutingConfig = TopK | ExpertsChoice | Soft

ROUTERS: Mapping[RoutingKind, str] = {
    "top-k": "NoisyTopExpertsPerItemRouter",
    "experts-choice": "NoisyTopItemsPerExpertRouter",
    "soft": "SoftRouter",
}
"""Name of the official class by routing kind."""


@dataclass(frozen=True)
class MoeConfig:
    """The MoE layers: E of each, which blocks they are in, and how tokens get to the experts.

    With `dispatch_bf16` tokens are rounded to bfloat16 on their way to the experts and back.
    """

    experts: tuple[int, ...]
    mlp_dim: int
    layers: tuple[int, ...]
    dispatch_bf16: bool
    routing: RoutingConfig

    @property
    def num_experts(self) -> int:
        """E; the largest one where the layers differ."""
        return max(self.experts)


def pixels(size: tuple[int, int]) -> str:
    """A (height, width) as people and options write it."""
    return f"{size[0]}x{size[1]}"


def experts_entry(experts: tuple[int, ...]) -> dict[str, Any]:
    """E of each MoE layer as it stands in a manifest: one number, and where the layers differ all of them as well."""
    return {"num_experts": max(experts)} | ({"layer_experts": list(experts)} if len(set(experts)) > 1 else {})


def _told(default: Any) -> Any:
    """A field that no tensor determines, and so the config says."""
    return dataclasses.field(default=default, metadata={"told": True})


@dataclass(frozen=True)
class ModelConfig:
    """A V-MoE, or a dense ViT when `moe` is None. Sizes are (height, width) in pixels.

    Official models have the fields with a default as it is; families of other libraries set them.

    Attributes:
        classifier: what the head gets. "gap" is the mean of all tokens but those in front, "token+gap" the class token and
            that mean, "token+token" the first two tokens, "map" what attention makes of all.
        extra_tokens: tokens in front of the patches that no classifier reads alone: registers, or a class token where a mean
            is taken.
        patch_norm: a norm of the patches, before they get positions.
        embedding_norm: a norm before the first block.
        rotary: the blocks turn queries and keys, by coordinates and frequencies that are tensors.
        qk_norm_bias: norms of queries and keys have one.
        wide_qk_norm: these are RMS norms of all heads together.
        attention_norm: what attention gives is normed before its projection.
        gated_mlp, mlp_norm: of the blocks: a gate, and a norm of hidden features.
        rms_norm: norms of blocks, of patches and the last one subtract no mean.
        encoder_norm, norm_after_pooling: whether there is a last norm, and whether it is behind the mean of the tokens.
        plain_map_head: attention pools without the blocks' norms of queries and keys.
        map_heads: its heads, where they are not as many as in the blocks.
        map_epsilon: that of its norm.
        map_front: it sees the tokens in front of the patches as well.
        bare_map_head: its probe is the query itself, and no MLP follows.
        representation_tanh: whether one follows the representation; CLIP's projection has none.
        normalize: what the head gets is divided by its Euclidean norm.
        pools: whether anything is behind the tokens.
        stream_scale: the residual stream is so many times that of its library.
        family: of another library's model.

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
    extra_tokens: int = 0
    patch_norm: bool = False
    embedding_norm: bool = False
    rotary: bool = False
    qk_norm_bias: bool = False
    wide_qk_norm: bool = _told(False)
    attention_norm: bool = False
    mlp_norm: bool = False
    gated_mlp: bool = False
    rms_norm: bool = _told(False)
    encoder_norm: bool = _told(True)
    norm_after_pooling: bool = _told(False)
    plain_map_head: bool = _told(False)
    map_heads: int = 0
    map_epsilon: float = _told(LAYER_NORM_EPSILON)
    map_front: bool = _told(False)
    bare_map_head: bool = _told(False)
    representation_tanh: bool = True
    activation: Activation = _told("gelu_tanh")  # noqa: RUF009  (it is a field)
    normalize: bool = _told(False)
    pools: bool = _told(True)
    stream_scale: float = _told(1.0)
    family: str | None = None
    origins: Mapping[str, Origin] = dataclasses.field(default_factory=dict, compare=False)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches (rows, columns): a rest smaller than a patch is cut off, as a VALID convolution does."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]

    @property
    def num_tokens(self) -> int:
        """T, the tokens of one image."""
        return self.front_tokens + math.prod(self.grid)

    def has_qk_norm(self, attention: str) -> bool:
        """Whether the attention layer of that path norms its queries and keys."""
        return self.attention_qk_norm and not (self.plain_map_head and attention.startswith("MapHead"))

    def heads_of(self, attention: str) -> int:
        """The heads of the attention layer of that path."""
        return (self.map_heads if attention.startswith("MapHead") else 0) or self.num_heads

    @property
    def front_tokens(self) -> int:
        """Tokens in front of the patches."""
        return self.extra_tokens + int(self.classifier.startswith("token"))

    @property
    def prefix_tokens(self) -> int:
        """Tokens at the front of an image that are never merged: those in front of the patches, or that of a classifier."""
        return max(self.front_tokens, int(self.classifier == "0"))

    def for_output(self, output: Output) -> ModelConfig:
        """The model without what its tokens don't need, if they are the output."""
        if output != "tokens":
            return self
        return replace(
            self,
            pools=False,
            classifier="gap" if self.classifier == "map" else self.classifier,  # the one that has no tensors either
            plain_map_head=False,
            map_heads=0,
            map_epsilon=LAYER_NORM_EPSILON,
            map_front=False,
            bare_map_head=False,
            representation_size=None,
            num_classes=None,
            normalize=False,
        )

    def merges(self, group_tokens: int) -> bool:
        """Whether blocks can merge tokens: not of an ensemble (E3), nor where a routing group cuts an image."""
        return self.ensemble_size == 1 and (self.moe is None or group_tokens % self.num_tokens == 0)

    @property
    def normalizes_weights(self) -> bool:
        """Whether the weights of a token's experts are divided by their sum."""
        routing = self.moe and self.moe.routing
        return isinstance(routing, TopK) and routing.normalize_weights

    @property
    def feature_size(self) -> int:
        """Size of what the head gets."""
        return self.representation_size or self.pooled_size

    @property
    def pooled_size(self) -> int:
        """Size of what pooling makes of the tokens."""
        return self.hidden_size * (2 if "+" in self.classifier else 1)

    @property
    def ensemble_size(self) -> int:
        """M, the members of an ensemble of experts (E3); 1 for every other model."""
        routing = self.moe and self.moe.routing
        return routing.ensemble_size if isinstance(routing, TopK) else 1

    def to_json(self) -> dict[str, Any]:
        """The description as it stands in a bundle's manifest."""
        usual = {field.name: field.default for field in dataclasses.fields(self)}
        fields = {name: value for name, value in dataclasses.asdict(self).items() if value != usual[name] or name == "moe"}
        if fields["moe"]:
            routing = fields["moe"]["routing"]
            if not routing.get("normalize_weights", True):
                del routing["normalize_weights"]
            fields["moe"] = experts_entry(fields["moe"].pop("experts")) | fields["moe"]
        fields["origins"] = dict(self.origins)
        return fields


TOLD: Mapping[str, Any] = {
    field.name: field.default for field in dataclasses.fields(ModelConfig) if "told" in field.metadata
}
"""The fields that the config says, beside those of official ones, and their defaults."""
