"""Profiles: named routing settings of one model, and the rule that turns a setting into places per expert."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from vmoe_runtime.capacity import Rounding, compute_capacity, effective_ratio
from vmoe_runtime.errors import RoutingError, shown

_SMALL_GROUP = 128  # pairs; below, a multiple of 4 or 8 may exceed them without harm


@dataclass(frozen=True)
class Profile:
    """One routing setting.

    Attributes:
        name: such as `c0.3-k1` (Batch Priority Routing) or `c0.3-k1-vanilla`.
        capacity_ratio: C as it was asked for.
        k: experts per token.
        bpr: True for Batch Priority Routing, False for vanilla order.
        capacity: places per expert and group, one integer per MoE layer.
        effective_ratio: C as it is after rounding to whole places.
    """

    name: str
    capacity_ratio: float
    k: int
    bpr: bool
    capacity: tuple[int, ...]
    effective_ratio: float

    def inputs(self) -> dict[str, np.ndarray[Any, np.dtype[np.int64]]]:
        """The graph inputs that select this setting: `capacity` i64[MoE layers], `k` i64[1], `bpr` i64[1]."""
        values = {"capacity": self.capacity, "k": [self.k], "bpr": [self.bpr]}
        return {name: np.array(value, np.int64) for name, value in values.items()}


def profile_name(capacity_ratio: float, k: int, bpr: bool) -> str:
    """The systematic name of a setting.

    Example:
        >>> profile_name(0.3, 1, True), profile_name(1.05, 2, False)
        ('c0.3-k1', 'c1.05-k2-vanilla')
    """
    return f"c{capacity_ratio!r}-k{k}".replace(".0-", "-") + ("" if bpr else "-vanilla")


def parse_profile_name(name: str) -> tuple[float, int, bool] | None:
    """(capacity ratio, k, bpr) of a systematic name, or None if it is not one.

    Example:
        >>> parse_profile_name("c0.3-k1")
        (0.3, 1, True)
    """
    match = re.fullmatch(r"c([0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?)-k([0-9]{1,6})(-vanilla)?", name)
    return (float(match[1]), int(match[2]), match[3] is None) if match else None


def _is_flag(value: object) -> bool:
    try:
        return bool(value in (True, False))
    except Exception:  # an array of several, which other libraries refuse in their own ways
        return False


@dataclass(frozen=True)
class RoutingRules:
    """What turns a requested setting into a profile.

    Attributes:
        num_experts: E.
        group_tokens: S, tokens per routing group.
        num_moe_layers: how many integers a profile's capacity has.
        rounding: "ceil" or "round".
        capacity_multiple_of: places are rounded up to a multiple of this.
        ensemble_size: M, the members of an E3, which have E / M experts each; 1 for a plain V-MoE.
    """

    num_experts: int
    group_tokens: int
    num_moe_layers: int
    rounding: Rounding = "ceil"
    capacity_multiple_of: int = 1
    ensemble_size: int = 1

    def profile(self, capacity_ratio: float, k: int, bpr: bool) -> Profile:
        """The profile of a setting.

        Raises:
            RoutingError: a setting that this model can't be run with.
        """
        try:
            capacity_ratio, k = float(capacity_ratio), operator.index(k)
        except (TypeError, ValueError, OverflowError):
            raise RoutingError(
                f"capacity must be a number and k a whole number, not {shown(capacity_ratio)} and {shown(k)}"
            ) from None
        if not _is_flag(bpr):
            raise RoutingError(f"bpr must be True or False, not {shown(bpr)}")
        most = self.num_experts // self.ensemble_size
        if not 1 <= k <= most:
            what = "the number of experts" if self.ensemble_size == 1 else "the number of experts of a member"
            raise RoutingError(f"k must be between 1 and {what}, {most}, not {shown(k)}")
        if capacity_ratio > self.num_experts:
            raise RoutingError(
                f"the capacity ratio {capacity_ratio:g} is larger than the number of experts, {self.num_experts}; "
                f"from {self.num_experts / k:g} on no token is dropped"
            )
        pairs = self.group_tokens * k
        places = compute_capacity(pairs, self.num_experts, capacity_ratio, self.rounding, self.capacity_multiple_of)
        # An expert can't get more than all pairs; a multiple far above would only cost memory.
        if places > max(pairs, _SMALL_GROUP):
            raise RoutingError(
                f"rounding up to a multiple of {self.capacity_multiple_of} gives {places} places per expert, "
                f"where a group has {pairs} token-expert pairs"
            )
        return Profile(
            profile_name(capacity_ratio, k, bool(bpr)),
            capacity_ratio,
            k,
            bool(bpr),
            (places,) * self.num_moe_layers,
            effective_ratio(places, pairs, self.num_experts),
        )
