"""Floating-point operations and weight bytes of one model: what a run at least has to compute and to read.

Two operations per multiply-add; matrix products only, as the floors are about those.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from vmoe_export.model.model_config import ModelConfig

Arithmetic = Literal["fp32", "bf16", "int8"]

WEIGHT_BYTES: dict[Arithmetic, int] = {"fp32": 4, "bf16": 2, "int8": 1}


@dataclass(frozen=True)
class Numbers:
    """What the products of a model are computed in, and their weights stored.

    Attributes:
        linear: linear layers and MLPs of the dense part, the embedding of the patches among them.
        attention: the two products of attention.
        experts: the experts' MLPs.

    Routers and head are float32.
    """

    linear: Arithmetic = "fp32"
    attention: Arithmetic = "fp32"
    experts: Arithmetic = "fp32"


def pair_flops(config: ModelConfig) -> int:
    """FLOPs of one token in one expert."""
    assert config.moe is not None
    return mlp_flops(config.hidden_size, config.moe.mlp_dim)


def mlp_flops(width: int, hidden: int) -> int:
    """FLOPs of one token in an MLP."""
    return 4 * width * hidden


def projection_flops(config: ModelConfig) -> int:
    """FLOPs per image of the four linear layers around one attention."""
    return 8 * config.num_tokens * config.hidden_size**2


def attention_flops(config: ModelConfig) -> int:
    """FLOPs per image of the two products of one attention."""
    return 4 * config.num_tokens**2 * config.hidden_size


def dense_part_flops(config: ModelConfig) -> dict[Literal["linear", "attention", "float"], int]:
    """FLOPs per image of everything but the experts.

    Returns:
        Those of linear layers and MLPs, of attention's two products, and of what is always float32: routers and head.
    """
    tokens, width, moe_layers = config.num_tokens, config.hidden_size, moe_layer_count(config)
    embedding = 2 * math.prod(config.grid) * _patch_size(config) * width
    mlps = (config.num_layers - moe_layers) * tokens * mlp_flops(width, config.mlp_dim)
    routers = moe_layers * 2 * tokens * width * config.moe.num_experts if config.moe else 0
    head = 2 * width * (config.num_classes or 0)
    return {
        "linear": embedding + config.num_layers * projection_flops(config) + mlps,
        "attention": config.num_layers * attention_flops(config),
        "float": routers + head,
    }


def moe_layer_count(config: ModelConfig) -> int:
    """How many layers have experts."""
    return len(config.moe.layers) if config.moe else 0


def expert_parameters(config: ModelConfig) -> int:
    """Weights and biases of one expert."""
    assert config.moe is not None
    return _mlp_parameters(config.hidden_size, config.moe.mlp_dim)


def dense_part_parameters(config: ModelConfig) -> dict[Literal["linear", "float"], int]:
    """Parameters of everything but the experts.

    Returns:
        Those of linear layers and MLPs, and of what is always float32.
    """
    width, moe_layers = config.hidden_size, moe_layer_count(config)
    attention = 4 * (width * width + width)
    mlps = (config.num_layers - moe_layers) * _mlp_parameters(width, config.mlp_dim)
    embedding = (_patch_size(config) + 1) * width
    routers = moe_layers * width * config.moe.num_experts if config.moe else 0
    positions = (config.num_tokens + 1) * width
    head = (width + 1) * (config.num_classes or 0)
    norms = (2 * config.num_layers + 1) * 2 * width
    return {"linear": config.num_layers * attention + mlps + embedding, "float": routers + positions + head + norms}


def _moe_layers(config: ModelConfig) -> int:
    return len(config.moe.layers) if config.moe else 0


def _patch_size(config: ModelConfig) -> int:
    return math.prod(config.patch_size) * config.channels


def _mlp_parameters(width: int, hidden: int) -> int:
    return 2 * width * hidden + hidden + width
