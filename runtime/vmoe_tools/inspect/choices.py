"""The choices of tokens in one form for every routing kind: which expert, at what weight, and whether it was kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vmoe_runtime import Routing

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Choices:
    """C choices of each of T tokens, in the order of the images; in an ensemble (E3) every member of a token is a row.

    With experts choice and in Soft MoE every expert is a choice of every token, so C = E.

    Attributes:
        expert: i32[T,C], the expert of each choice; -1 where the bundle's format doesn't say it of a dropped one.
        kept: bool[T,C], the choice got a place. All of them in Soft MoE.
        weight: f32[T,C], raw gates; in Soft MoE the share of the expert's slots in the output of the token.
        complete: every row has the gates of all experts, so that they sum to 1.
    """

    expert: Array
    kept: Array
    weight: Array
    complete: bool


def choices_of(routing: Routing, num_experts: int | None = None) -> Choices:
    """The choices of one MoE layer.

    Args:
        routing: of the layer, for G groups of S tokens.
        num_experts: E of the layer. Without it choices of top-k routing never count as complete.
    """
    if routing.kept is None:
        assert routing.combine is not None
        weight = routing.combine.sum(axis=3)
        return _of_all_experts(np.ones(weight.shape, bool), weight)
    assert routing.weight is not None
    if routing.expert is None:
        return _of_all_experts(routing.kept, routing.weight)
    choices = routing.kept.shape[2]
    members = 1 if routing.layout is None else routing.layout.members
    expert, kept, weight = (part.reshape(-1, choices) for part in (routing.expert, routing.kept, routing.weight))
    return Choices(expert, kept, weight, complete=choices == num_experts and members == 1)


def _of_all_experts(kept: Array, weight: Array) -> Choices:
    experts = weight.shape[2]
    expert = np.broadcast_to(np.arange(experts, dtype=np.int32), (weight.shape[0] * weight.shape[1], experts))
    return Choices(expert, kept.reshape(-1, experts), weight.reshape(-1, experts), complete=True)
