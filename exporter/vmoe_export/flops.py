"""Floating-point operations of one image through a model: two per multiply-add, matrix products only."""

from __future__ import annotations

import math

from vmoe_export.model_config import ModelConfig
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing_kinds import RoutingRules, SoftRules


def dense_flops(model: ModelConfig) -> int:
    """FLOPs per image of the dense ViT of the same size: every MoE layer an MLP that each token visits once."""
    tokens, width = model.num_tokens, model.hidden_size
    mlp = 4 * tokens * width * model.mlp_dim
    return _shared_flops(model) + model.num_layers * mlp


def sparse_flops(model: ModelConfig, rules: RoutingRules, profile: Profile | None) -> int:
    """FLOPs per image at a profile, when every place of every expert is filled; of a Soft MoE `profile` is None."""
    assert model.moe is not None
    tokens, width, members = model.num_tokens, model.hidden_size, model.ensemble_size
    groups = tokens * members / rules.group_tokens  # per image
    total = _shared_flops(model)
    total += (model.num_layers - len(model.moe.layers)) * 4 * tokens * width * model.mlp_dim
    for layer in range(len(model.moe.layers)):
        if isinstance(rules, SoftRules):
            slots = rules.num_experts * rules.slots_per_expert
            # Router, dispatch and combine are products of all tokens with all slots.
            total += round(4 * groups * slots * width * model.moe.mlp_dim) + 6 * tokens * slots * width
            continue
        assert profile is not None
        places = groups * rules.num_experts * profile.capacity[layer]
        total += round(4 * places * width * model.moe.mlp_dim) + 2 * tokens * members * width * rules.num_experts
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
