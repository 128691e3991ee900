"""How the MoE layers of a model route: one class for each routing kind, with what a checkpoint or its config says of it.

`kind` tells them apart, here and in a bundle's manifest; `vmoe_runtime.routing_kinds` has the rules of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vmoe_runtime.capacity import Rounding


@dataclass(frozen=True)
class TopK:
    """Each token chooses its k best experts.

    `k` and `capacity_ratio` are those of training and serve as defaults for profiles; the paper's are 2 and 1.05.
    `ensemble_size` is M, the members of an E3: each has a copy of every token and 1 / M of the experts. 1 is a plain V-MoE.
    """

    k: int
    capacity_ratio: float
    rounding: Rounding
    capacity_multiple_of: int
    ensemble_size: int = 1
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
