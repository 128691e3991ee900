"""The routing kinds: their names, and the outputs that a graph of each kind has for each MoE layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

RoutingKind = Literal["top-k", "experts-choice", "soft"]
ModelKind = Literal["dense", RoutingKind]
SettingKind = Literal["dense", "top-k", "ensemble", "experts-choice", "soft"]
"""The kinds that differ in their settings: an ensemble (E3) routes by top-k, but has fewer settings."""

ROUTING_KINDS: tuple[RoutingKind, ...] = ("top-k", "experts-choice", "soft")
SETTING_KINDS: tuple[SettingKind, ...] = ("dense", "top-k", "ensemble", "experts-choice", "soft")

KIND_NAMES: Mapping[ModelKind, str] = {
    "dense": "dense ViT",
    "top-k": "V-MoE",
    "experts-choice": "V-MoE with expert choice",
    "soft": "Soft MoE",
}
"""What a model of each kind is called."""

LAYER_OUTPUTS: Mapping[ModelKind, tuple[str, ...]] = {
    "dense": (),
    "top-k": ("expert", "kept", "weight"),
    "experts-choice": ("kept", "weight"),
    "soft": ("dispatch", "combine"),
}
"""The outputs of a graph for each MoE layer: their names after the layer's name and a slash."""

TOKEN_OUTPUT = "token"
"""An additional output if the graph merges tokens."""
