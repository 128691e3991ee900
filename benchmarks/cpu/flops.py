"""Floating-point operations and weight bytes of one model: what a run at least has to compute and to read.

Two operations per multiply-add; matrix products only, as the floors are about those.
"""

from __future__ import annotations

import math

from vmoe_export.model_config import ModelConfig


def pair_flops(config: ModelConfig) -> int:
    """FLOPs of one token in one expert."""
    assert config.moe is not None
    return 4 * config.hidden_size * config.moe.mlp_dim


def shared_flops(config: ModelConfig) -> int:
    """FLOPs per image of everything but the experts: embedding, attention, MLPs of dense layers, routers, head."""
    tokens, width = config.num_tokens, config.hidden_size
    patch = math.prod(config.patch_size) * config.channels
    attention = 8 * tokens * width * width + 4 * tokens * tokens * width
    mlp = 4 * tokens * width * config.mlp_dim
    moe_layers = len(config.moe.layers) if config.moe else 0
    routers = moe_layers * 2 * tokens * width * config.moe.num_experts if config.moe else 0
    embedding = 2 * math.prod(config.grid) * patch * width
    head = 2 * width * (config.num_classes or 0)
    return embedding + config.num_layers * attention + (config.num_layers - moe_layers) * mlp + routers + head


def expert_parameters(config: ModelConfig) -> int:
    """Weights and biases of one expert."""
    assert config.moe is not None
    return 2 * config.hidden_size * config.moe.mlp_dim + config.moe.mlp_dim + config.hidden_size


def shared_parameters(config: ModelConfig) -> int:
    """Weights and biases of everything but the experts."""
    width, tokens = config.hidden_size, config.num_tokens
    attention = 4 * (width * width + width)
    mlp = 2 * width * config.mlp_dim + config.mlp_dim + width
    moe_layers = len(config.moe.layers) if config.moe else 0
    routers = moe_layers * width * config.moe.num_experts if config.moe else 0
    embedding = math.prod(config.patch_size) * config.channels * width + (tokens + 2) * width
    head = (width + 1) * (config.num_classes or 0)
    norms = (2 * config.num_layers + 1) * 2 * width
    layers = config.num_layers * attention + (config.num_layers - moe_layers) * mlp
    return embedding + layers + routers + norms + head
