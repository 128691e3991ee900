"""Floating-point operations of one image through a model: two per multiply-add, matrix products only."""

from __future__ import annotations

import math

from vmoe_export.model_config import ModelConfig
from vmoe_runtime.profiles import Profile, RoutingRules


def dense_flops(model: ModelConfig) -> int:
    """FLOPs per image of the dense ViT of the same size: every MoE layer an MLP that each token visits once."""
    tokens, width = model.num_tokens, model.hidden_size
    mlp = 4 * tokens * width * model.mlp_dim
    return _shared_flops(model) + model.num_layers * mlp


def sparse_flops(model: ModelConfig, rules: RoutingRules, profile: Profile) -> int:
    """FLOPs per image at a profile, when every place of every expert is filled."""
    assert model.moe is not None
    tokens, width = model.num_tokens, model.hidden_size
    total = _shared_flops(model)
    total += (model.num_layers - len(model.moe.layers)) * 4 * tokens * width * model.mlp_dim
    for capacity in profile.capacity:
        places = rules.num_experts * capacity * tokens / rules.group_tokens
        total += round(4 * places * width * model.moe.mlp_dim) + 2 * tokens * width * rules.num_experts
    return total


def _shared_flops(model: ModelConfig) -> int:
    """Patch embedding, attention and head."""
    tokens, width = model.num_tokens, model.hidden_size
    patch = model.patch_size[0] * model.patch_size[1] * model.channels
    attention = 8 * tokens * width * width + 4 * tokens * tokens * width
    head = 0
    if model.classifier == "map":
        head += 4 * width * width * (tokens + 1) + 4 * tokens * width + 4 * width * model.mlp_dim
    if model.representation_size:
        head += 2 * width * model.representation_size
    head += 2 * model.feature_size * (model.num_classes or 0)
    return 2 * math.prod(model.grid) * patch * width + model.num_layers * attention + head
