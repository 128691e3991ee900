"""The routing kinds: what each has to set, and how a setting becomes a profile.

A kind is one class here. Its `settings` are also the names of its graphs' inputs; nothing else in the runtime tests the kind
to learn them.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from vmoe_runtime.capacity import Rounding, compute_slots, effective_ratio
from vmoe_runtime.errors import RoutingError, shown
from vmoe_runtime.profiles import OFFICIAL_SETTINGS, SETTINGS, Profile, experts_choice_name, parse_profile_name, profile_name

RoutingKind = Literal["top-k", "experts-choice", "soft"]

ROUTING_KINDS: tuple[RoutingKind, ...] = ("top-k", "experts-choice", "soft")

KIND_NAMES: Mapping[RoutingKind, str] = {
    "top-k": "V-MoE",
    "experts-choice": "V-MoE of experts choice",
    "soft": "Soft MoE",
}
"""What a model of the kind is called."""

LAYER_OUTPUTS: Mapping[RoutingKind, tuple[str, ...]] = {
    "top-k": ("expert", "kept", "weight"),
    "experts-choice": ("kept", "weight"),
    "soft": ("dispatch", "combine"),
}
"""What a graph returns of each MoE layer, behind the layer's name and a slash."""

MOST_COUNTED_TOKENS = 131_071
"""Tokens of a group whose masses, up to 2^14 each, are sure to fit an int32."""

_SMALL_GROUP = 128  # pairs; below, a multiple of 4 or 8 may exceed them without harm


@dataclass(frozen=True)
class _Rules:
    """What all kinds have.

    Attributes:
        num_experts: E.
        group_tokens: S, tokens per routing group.
        num_moe_layers: MoE layers of the model.
    """

    kind: ClassVar[RoutingKind]
    example: ClassVar[str]

    num_experts: int
    group_tokens: int
    num_moe_layers: int

    @property
    def settings(self) -> tuple[str, ...]:
        """What a call may set, in the order of the graph's inputs."""
        return ()

    @property
    def ensemble_size(self) -> int:
        """M, the members of an ensemble (E3); 1 for every other model."""
        return 1

    def changed(self, base: Profile | None, changes: Mapping[str, Any]) -> Profile:
        """A profile with some settings replaced: capacity (a ratio), k, bpr, pool, max_experts.

        Raises:
            RoutingError: a setting that the model can't be run with, or that the kind doesn't have.
        """
        self.check_names(changes)
        fields = {"capacity_ratio" if name == "capacity" else name: changes.get(name) for name in self.settings}
        return self.profile(**{name: getattr(base, name) if value is None else value for name, value in fields.items()})

    def named(self, name: str, stored: Iterable[str] = ()) -> Profile:
        """The profile of a systematic name.

        Args:
            name: such as `c0.3-k1`.
            stored: names that a bundle has, for the message.

        Raises:
            RoutingError: it is no such name, or not one of this kind.
        """
        fields = parse_profile_name(name)
        if not self.settings or fields is None or ("k" in fields) != ("k" in self.settings):
            has = f"the bundle has {', '.join(stored)}, and " if stored else ""
            raise RoutingError(f"there is no profile '{name}'; {has}{self.example}")
        self.check_names(fields)
        return self.profile(**fields)

    def check_names(self, names: Collection[str]) -> None:
        """Refuses settings that the kind doesn't have.

        Raises:
            RoutingError: with their names, and why.
        """
        if refused := [name for name in SETTINGS if name in names and name not in self.settings]:
            *most, last = refused
            raise RoutingError(self._refusal(f"{', '.join(most)} or {last}" if most else last))

    def profile(self, *_: Any, **__: Any) -> Profile:
        """The profile of a setting; a kind without settings has none."""
        raise NotImplementedError

    def _refusal(self, names: str) -> str:
        raise NotImplementedError


@dataclass(frozen=True)
class TopKRules(_Rules):
    """Each token chooses its k best experts, and an expert takes what fits its slots.

    Attributes:
        rounding: "ceil" or "round".
        capacity_multiple_of: slots are rounded up to a multiple of this.
        ensemble_size: M, the members of an ensemble (E3), which have E / M experts each; 1 for a plain V-MoE.
    """

    kind = "top-k"
    example = "any name like c0.3-k1, c0.3-k1-vanilla or c0.3-k1-pool-m4 works"

    rounding: Rounding = "ceil"
    capacity_multiple_of: int = 1
    ensemble_size: int = 1

    @property
    def has_policies(self) -> bool:
        """Whether the graph takes `pool` and `max_experts`; that of an ensemble doesn't."""
        return self.ensemble_size == 1

    @property
    def settings(self) -> tuple[str, ...]:
        """What a call may set, in the order of the graph's inputs."""
        return SETTINGS if self.has_policies else OFFICIAL_SETTINGS

    def profile(
        self, capacity_ratio: float, k: int, bpr: bool, pool: bool | None = None, max_experts: int | None = None
    ) -> Profile:
        """The profile of a setting; `pool` None is False, `max_experts` None is no limit.

        Raises:
            RoutingError: a setting that this model can't be run with.
        """
        try:
            if isinstance(capacity_ratio, str | bool) or isinstance(k, bool):
                raise TypeError
            capacity_ratio, k = float(capacity_ratio), operator.index(k)
        except (TypeError, ValueError, OverflowError):
            raise RoutingError(
                f"capacity must be a number and k a whole number, not {shown(capacity_ratio)} and {shown(k)}"
            ) from None
        for name, flag in (("bpr", bpr), ("pool", False if pool is None else pool)):
            if not _is_flag(flag):
                raise RoutingError(f"{name} must be True or False, not {shown(flag)}")
        most = self.num_experts // self.ensemble_size
        if not 1 <= k <= most:
            what = "the number of experts" if self.ensemble_size == 1 else "the number of experts of a member"
            raise RoutingError(f"k must be between 1 and {what}, {most}, not {shown(k)}")
        limit = self._limit(max_experts)
        slots, ratio = _slots(self, capacity_ratio, k)
        return Profile(
            profile_name(capacity_ratio, k, bool(bpr), bool(pool), None if limit == self.num_experts else limit),
            capacity_ratio,
            k,
            bool(bpr),
            slots,
            ratio,
            bool(pool) if self.has_policies else None,
            limit if self.has_policies else None,
            self,
        )

    def _limit(self, max_experts: int | None) -> int:
        """Experts that a group may use: E for no limit."""
        if max_experts is None:
            return self.num_experts
        try:
            limit = operator.index(max_experts)
        except TypeError:
            raise RoutingError(f"max_experts must be a whole number, not {shown(max_experts)}") from None
        if isinstance(max_experts, bool) or limit < 1:
            raise RoutingError(f"max_experts must be at least 1, not {shown(max_experts)}")
        if limit < self.num_experts and self.group_tokens > MOST_COUNTED_TOKENS:
            raise RoutingError(
                f"max_experts needs groups of at most {MOST_COUNTED_TOKENS:,} tokens, and these have {self.group_tokens:,}"
            )
        return min(limit, self.num_experts)

    def _refusal(self, names: str) -> str:
        return f"ensembles (E3) are routed officially: they take no {names}"


@dataclass(frozen=True)
class ExpertsChoiceRules(_Rules):
    """Each expert chooses the tokens with the largest gates, as many as it has slots.

    Attributes:
        rounding, capacity_multiple_of: as of `TopKRules`.
    """

    kind = "experts-choice"
    example = "any name like c1.0 works"

    rounding: Rounding = "ceil"
    capacity_multiple_of: int = 1

    @property
    def settings(self) -> tuple[str, ...]:
        """What a call may set, in the order of the graph's inputs."""
        return ("capacity",)

    def profile(self, capacity_ratio: float) -> Profile:
        """The profile of a capacity ratio.

        Raises:
            RoutingError: a ratio that this model can't be run with.
        """
        try:
            if isinstance(capacity_ratio, str | bool):
                raise TypeError
            capacity_ratio = float(capacity_ratio)
        except (TypeError, ValueError, OverflowError):
            raise RoutingError(f"capacity must be a number, not {shown(capacity_ratio)}") from None
        slots, ratio = _slots(self, capacity_ratio, 1)
        return Profile(experts_choice_name(capacity_ratio), capacity_ratio, None, None, slots, ratio, rules=self)

    def _refusal(self, names: str) -> str:
        return f"with experts choice there is nothing to set but the capacity ratio: it takes no {names}"


@dataclass(frozen=True)
class SoftRules(_Rules):
    """Soft MoE: each slot of an expert is a mean of all tokens, and nothing is dropped.

    Attributes:
        slots_per_expert: P.
    """

    kind = "soft"
    example = "Soft MoE has nothing to set"

    slots_per_expert: int = 1

    def _refusal(self, names: str) -> str:
        return f"Soft MoE has nothing to set: it takes no {names}"


RoutingRules = TopKRules | ExpertsChoiceRules | SoftRules
"""What makes a profile of a requested setting, for a model of one kind."""


def _slots(rules: TopKRules | ExpertsChoiceRules, capacity_ratio: float, k: int) -> tuple[tuple[int, ...], float]:
    """Slots per expert and group of each MoE layer, and the capacity ratio after rounding."""
    if capacity_ratio > rules.num_experts:
        raise RoutingError(
            f"the capacity ratio {capacity_ratio:g} is larger than the number of experts, {rules.num_experts}; "
            f"from {rules.num_experts / k:g} on no token is dropped"
        )
    pairs = rules.group_tokens * k
    slots = compute_slots(pairs, rules.num_experts, capacity_ratio, rules.rounding, rules.capacity_multiple_of)
    # An expert can't get more than all pairs; a multiple far above would only cost memory.
    if slots > max(pairs, _SMALL_GROUP):
        raise RoutingError(
            f"rounding up to a multiple of {rules.capacity_multiple_of} gives {slots} slots per expert, "
            f"where a group has {pairs} token-expert pairs"
        )
    return (slots,) * rules.num_moe_layers, effective_ratio(slots, pairs, rules.num_experts)


def _is_flag(value: object) -> bool:
    try:
        return bool(value in (True, False))
    except Exception:  # an array of several, which other libraries refuse in their own ways
        return False
