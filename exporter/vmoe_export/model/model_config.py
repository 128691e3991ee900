"""The classes that describe a model and its routing, with one class per routing kind."""

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

    `k` and `capacity_ratio` are the training values and serve as defaults for profiles; the paper uses 2 and 1.05.
    `ensemble_size` is M, the number of members of an E3, or 1 for a plain V-MoE. Each member has its own copy of every token
    and 1 / M of the experts. With `normalize_weights`, a token's weights are divided by their sum before any (token, expert)
    pair is dropped.
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
    """Each expert chooses its best tokens. `capacity_ratio` is the training value; the official value is 1.0."""

    capacity_ratio: float
    rounding: Rounding
    capacity_multiple_of: int
    kind: Literal["experts-choice"] = "experts-choice"


@dataclass(frozen=True)
class Soft:
    """Soft MoE: each expert processes `slots_per_expert` weighted means over all tokens of a group.

    The shapes of the parameters fix the number of slots.
    """

    slots_per_expert: int
    kind: Literal["soft"] = "soft"


RoutingConfig = TopK | ExpertsChoice | Soft

ROUTERS: Mapping[RoutingKind, str] = {
    "top-k": "NoisyTopExpertsPerItemRouter",
    "experts-choice": "NoisyTopItemsPerExpertRouter",
    "soft": "SoftRouter",
}
"""Official router class of each routing kind."""


@dataclass(frozen=True)
class MoeConfig:
    """The MoE layers of a model.

    Attributes:
        experts: E, the number of experts, of each MoE layer.
        mlp_dim: F, the hidden size of an expert.
        layers: indices of the blocks that have an MoE layer.
        dispatch_bf16: whether tokens are rounded to bfloat16 when they are sent to the experts and when they return.
        routing: the routing kind and its settings.
    """

    experts: tuple[int, ...]
    mlp_dim: int
    layers: tuple[int, ...]
    dispatch_bf16: bool
    routing: RoutingConfig

    @property
    def num_experts(self) -> int:
        """E, the number of experts. If the layers differ, it is the largest number."""
        return max(self.experts)


def pixels(size: tuple[int, int]) -> str:
    """Format a (height, width) in the form that command-line options use, such as "224x224"."""
    return f"{size[0]}x{size[1]}"


def experts_entry(experts: tuple[int, ...]) -> dict[str, Any]:
    """Return the manifest's fields for the number of experts.

    One field is the largest number of experts in any layer. If the layers differ, a second field lists the number of
    experts in each layer.
    """
    return {"num_experts": max(experts)} | ({"layer_experts": list(experts)} if len(set(experts)) > 1 else {})


def _config_field(default: Any) -> Any:
    """Declare a field whose value comes from the config because the tensors do not determine it."""
    return dataclasses.field(default=default, metadata={"from_config": True})


@dataclass(frozen=True)
class ModelConfig:
    """A V-MoE, or a dense ViT if `moe` is None. Sizes are (height, width) in pixels.

    If a field has a default, every official model has this default. Models of other libraries may have another value.

    Attributes:
        classifier: the input of the head. "token" is the class token, "0" the first token, and "gap" the mean of the patch
            tokens. "token+gap" is the class token and the mean of the patch tokens. "token+token" is the first two tokens.
            "map" is the output of an attention pool.
        extra_tokens: number of tokens before the patches, besides the classifier's own: registers, or a class token if the
            classifier is a mean.
        patch_norm: the patches are normalized before positions are added.
        embedding_norm: there is a norm before the first block.
        rotary: queries and keys of the blocks are rotated, with coordinates and frequencies stored as tensors.
        qk_norm_bias: the norms of queries and keys have a bias.
        wide_qk_norm: the norms of queries and keys are RMS norms over all heads together.
        attention_norm: the output of attention is normalized before its projection.
        gated_mlp: the MLPs of the blocks have a gate.
        mlp_norm: the MLPs of the blocks have a norm of their hidden features.
        rms_norm: the norms of blocks and patches and the last norm are RMS norms, which subtract no mean.
        encoder_norm: there is a last norm.
        norm_after_pooling: the last norm is applied to the mean of the tokens, instead of to the tokens.
        plain_map_head: the attention pool does not normalize queries and keys, even if the blocks do.
        map_heads: number of heads of the attention pool; 0 if it has as many as the blocks.
        map_epsilon: epsilon of the attention pool's norm.
        map_front: the attention pool also reads the tokens before the patches.
        bare_map_head: the probe of the attention pool is used as the query without a projection, and no MLP follows the
            pool.
        representation_tanh: the representation layer is followed by tanh; CLIP's projection is not.
        normalize: the input of the head is divided by its Euclidean norm.
        pools: the model has a step that pools the final tokens.
        stream_scale: factor by which the residual stream is larger than in the original library.
        family: title of the model family if the model is from another library; None for official models.
        origins: the source of each field's value: the tensors ("inferred"), the config, a flag or a default.
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
    wide_qk_norm: bool = _config_field(False)
    attention_norm: bool = False
    mlp_norm: bool = False
    gated_mlp: bool = False
    rms_norm: bool = _config_field(False)
    encoder_norm: bool = _config_field(True)
    norm_after_pooling: bool = _config_field(False)
    plain_map_head: bool = _config_field(False)
    map_heads: int = 0
    map_epsilon: float = _config_field(LAYER_NORM_EPSILON)
    map_front: bool = _config_field(False)
    bare_map_head: bool = _config_field(False)
    representation_tanh: bool = True
    activation: Activation = _config_field("gelu_tanh")  # noqa: RUF009  (it is a field)
    normalize: bool = _config_field(False)
    pools: bool = _config_field(True)
    stream_scale: float = _config_field(1.0)
    family: str | None = None
    origins: Mapping[str, Origin] = dataclasses.field(default_factory=dict, compare=False)

    @property
    def grid(self) -> tuple[int, int]:
        """The number of patches, as (rows, columns).

        Pixels that do not fill a patch are cut off, as in a VALID convolution.
        """
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]

    @property
    def num_tokens(self) -> int:
        """T, the number of tokens per image."""
        return self.front_tokens + math.prod(self.grid)

    def has_qk_norm(self, attention: str) -> bool:
        """Return whether the attention layer with this path normalizes its queries and keys."""
        return self.attention_qk_norm and not (self.plain_map_head and attention.startswith("MapHead"))

    def heads_of(self, attention: str) -> int:
        """Return the number of heads of the attention layer with this path."""
        return (self.map_heads if attention.startswith("MapHead") else 0) or self.num_heads

    @property
    def front_tokens(self) -> int:
        """Number of tokens before the patches."""
        return self.extra_tokens + int(self.classifier.startswith("token"))

    @property
    def prefix_tokens(self) -> int:
        """Number of leading tokens that are never merged.

        These are all tokens before the patches. If there are none and the classifier reads only the first token, the number
        is 1.
        """
        return max(self.front_tokens, int(self.classifier == "0"))

    def for_output(self, output: Output) -> ModelConfig:
        """Return the model without the parts that the output does not need.

        The output "tokens" needs no pooling and no head. Every other output needs the whole model.
        """
        if output != "tokens":
            return self
        return replace(
            self,
            pools=False,
            classifier="gap" if self.classifier == "map" else self.classifier,  # "gap" needs no attention pool tensors
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
        """Return whether blocks can merge tokens if a routing group has `group_tokens` tokens.

        Blocks can't merge tokens in an ensemble (E3), or in a MoE whose routing groups do not consist of whole images.
        """
        return self.ensemble_size == 1 and (self.moe is None or group_tokens % self.num_tokens == 0)

    @property
    def normalizes_weights(self) -> bool:
        """Whether the weights of each token's experts are divided by their sum."""
        routing = self.moe and self.moe.routing
        return isinstance(routing, TopK) and routing.normalize_weights

    @property
    def feature_size(self) -> int:
        """Size of the head's input."""
        return self.representation_size or self.pooled_size

    @property
    def pooled_size(self) -> int:
        """Size of the vector that pooling computes."""
        return self.hidden_size * (2 if "+" in self.classifier else 1)

    @property
    def ensemble_size(self) -> int:
        """M, the number of members of an ensemble (E3); 1 for other models."""
        routing = self.moe and self.moe.routing
        return routing.ensemble_size if isinstance(routing, TopK) else 1

    def to_json(self) -> dict[str, Any]:
        """Return the description as stored in a bundle's manifest."""
        usual = {field.name: field.default for field in dataclasses.fields(self)}
        fields = {name: value for name, value in dataclasses.asdict(self).items() if value != usual[name] or name == "moe"}
        if fields["moe"]:
            routing = fields["moe"]["routing"]
            if not routing.get("normalize_weights", True):
                del routing["normalize_weights"]
            fields["moe"] = experts_entry(fields["moe"].pop("experts")) | fields["moe"]
        fields["origins"] = dict(self.origins)
        return fields


CONFIG_FIELDS: Mapping[str, Any] = {
    field.name: field.default for field in dataclasses.fields(ModelConfig) if "from_config" in field.metadata
}
"""Defaults of the fields that no tensor determines and that official configs do not have."""
