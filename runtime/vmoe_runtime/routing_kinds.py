"""The routing kinds: what each has to set, and how a setting becomes a profile.

A kind is one class here. Its `settings` are also the names of its graphs' inputs; nothing else in the runtime tests the kind
to learn them.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

from vmoe_runtime.capacity import Rounding, compute_slots
from vmoe_runtime.errors import RoutingError, shown
from vmoe_runtime.profiles import MERGE, OFFICIAL_SETTINGS, POLICIES, SETTINGS, Profile, parse_profile_name, profile_name

RoutingKind = Literal["top-k", "experts-choice", "soft"]
ModelKind = Literal["dense", RoutingKind]

ROUTING_KINDS: tuple[RoutingKind, ...] = ("top-k", "experts-choice", "soft")

KIND_NAMES: Mapping[ModelKind, str] = {
    "dense": "dense ViT",
    "top-k": "V-MoE",
    "experts-choice": "V-MoE of experts choice",
    "soft": "Soft MoE",
}
"""What a model of the kind is called."""

LAYER_OUTPUTS: Mapping[ModelKind, tuple[str, ...]] = {
    "dense": (),
    "top-k": ("expert", "kept", "weight"),
    "experts-choice": ("kept", "weight"),
    "soft": ("dispatch", "combine"),
}
"""What a graph returns of each MoE layer, behind the layer's name and a slash."""

TOKEN_OUTPUT = "token"
"""What it returns beside them where it merges tokens."""

MAX_MERGE = 65_536
"""The largest `merge`; a block merges at most half of its tokens anyway."""

MAX_MASS_TOKENS = 131_071
"""Tokens of a group whose masses, up to 2^14 each, are sure to fit an int32."""

_SMALL_GROUP = 128  # pairs; below, a multiple of 4 or 8 may exceed them without harm


@dataclass(frozen=True)
class _Rules:
    """What all kinds have.

    Attributes:
        experts: E of each MoE layer.
        group_tokens: S, tokens per routing group.
        image_tokens: T, tokens of an image, where blocks can merge some; None where they can't.
    """

    kind: ClassVar[ModelKind]
    own_settings: ClassVar[tuple[str, ...]] = ()
    """What the kind has to set beside `merge`."""
    example: ClassVar[str]

    experts: tuple[int, ...]
    group_tokens: int
    image_tokens: int | None = None

    @property
    def num_experts(self) -> int:
        """E; the largest one where the layers differ."""
        return max(self.experts, default=0)

    @property
    def settings(self) -> tuple[str, ...]:
        """What a call may set, in the order of the graph's inputs."""
        return (*self.own_settings, *((MERGE,) if self.image_tokens else ()))

    @property
    def ensemble_size(self) -> int:
        """M, the members of an ensemble (E3); 1 for every other model."""
        return 1

    def named(self, name: str, stored: Iterable[str] = ()) -> Profile:
        """The profile of a systematic name.

        Args:
            name: such as `c0.3-k1`.
            stored: names that a bundle has, for the message.

        Raises:
            RoutingError: it is no such name, or not one of this kind.
        """
        fields = parse_profile_name(name)
        needed = {"capacity": "capacity_ratio", "k": "k"}
        if fields is None or any((key in fields) != (name in self.settings) for name, key in needed.items()):
            has = f"the bundle has {', '.join(stored)}, and " if stored else ""
            example = self.example if self.settings else "the model has nothing to set"
            raise RoutingError(f"there is no profile '{name}'; {has}{example}")
        return self.profile(**fields)

    def check_names(self, names: Collection[str]) -> None:
        """Refuses settings that the kind doesn't have.

        Raises:
            RoutingError: with their names, and why.
        """
        if refused := [name for name in SETTINGS if name in names and name not in self.settings]:
            if refused == [MERGE]:
                why = "an ensemble (E3)" if self.ensemble_size > 1 else "groups that cut an image"
                raise RoutingError(f"tokens can't be merged in {why}: it takes no merge")
            *most, last = refused
            raise RoutingError(self._refusal(f"{', '.join(most)} or {last}" if most else last))

    def profile(
        self,
        capacity_ratio: float | None = None,
        k: int | None = None,
        bpr: bool | None = None,
        pool: bool | None = None,
        max_experts: int | None = None,
        merge: int | None = None,
        *,
        base: Profile | None = None,
    ) -> Profile:
        """The profile of a setting.

        Args:
            capacity_ratio, k, bpr, pool, max_experts, merge: what the model has of them; None for those of the base.
            base: where the others come from; without one, there is no pool, no limit of experts, and nothing is merged.

        Raises:
            RoutingError: a setting that the model can't be run with, or that it doesn't have.
        """
        values = dict(zip(SETTINGS, (capacity_ratio, k, bpr, pool, max_experts, merge), strict=True))
        self.check_names([name for name, value in values.items() if value is not None])
        if base is not None:
            of_base = {**vars(base), "capacity": base.capacity_ratio}
            values = {name: of_base[name] if value is None else value for name, value in values.items()}
        requested, merged = values.pop(MERGE), None
        if MERGE in self.settings:
            merged = _whole(MERGE, 0 if requested is None else requested)
            if not 0 <= merged <= MAX_MERGE:
                raise RoutingError(f"merge must be between 0 and {MAX_MERGE:,}, not {shown(merged)}")
        return self._profile(values, merged)

    def _profile(self, _: dict[str, Any], merge: int | None) -> Profile:
        """The profile of what the kind has to set; without more it is merging alone."""
        return Profile(profile_name(None, merge=merge), None, None, None, (), None, merge=merge, rules=self)

    def _refusal(self, names: str) -> str:
        raise NotImplementedError


@dataclass(frozen=True)
class _CapacityRules(_Rules):
    """What the kinds have whose experts have a number of slots for each group.

    Attributes:
        rounding: "ceil" or "round".
        capacity_multiple_of: slots are rounded up to a multiple of this.
    """

    rounding: Rounding = "ceil"
    capacity_multiple_of: int = 1

    def _profile(self, values: dict[str, Any], merge: int | None) -> Profile:
        ratio = _number(values.pop("capacity"))
        choice = self._choice(**values)
        if ratio > self.num_experts:
            raise RoutingError(
                f"the capacity ratio {ratio:g} is larger than the number of experts, {self.num_experts}; "
                f"from {self.num_experts / (choice['k'] or 1):g} on no token is dropped"
            )
        pairs = self.group_tokens * (choice["k"] or 1)
        by_count = {experts: self._slots(pairs, experts, ratio) for experts in dict.fromkeys(self.experts)}
        slots = tuple(by_count[experts] for experts in self.experts)
        limit = None if choice["max_experts"] == self.num_experts else choice["max_experts"]
        return Profile(
            name=profile_name(ratio, **{**choice, "max_experts": limit}, merge=merge),
            capacity_ratio=ratio,
            slots=slots,
            effective_ratio=float(sum(map(operator.mul, slots, self.experts))) / float(pairs * len(slots)),
            merge=merge,
            rules=self,
            **choice,
        )

    def _slots(self, pairs: int, experts: int, ratio: float) -> int:
        """Slots of each of so many experts. From a ratio of their number on, which drops nothing, there are no more."""
        slots = compute_slots(pairs, experts, min(ratio, experts), self.rounding, self.capacity_multiple_of)
        # An expert can't get more than all pairs; a multiple far above would only cost memory.
        if slots > max(pairs, _SMALL_GROUP):
            raise RoutingError(
                f"rounding up to a multiple of {self.capacity_multiple_of} gives {slots} slots per expert, "
                f"where a group has {pairs} token-expert pairs"
            )
        return slots

    def _choice(self, k: Any, bpr: Any, pool: Any, max_experts: Any) -> dict[str, Any]:
        """What a user gave, checked, as a profile has it; where experts choose, there is none of it."""
        return {"k": k, "bpr": bpr, "pool": pool, "max_experts": max_experts}


@dataclass(frozen=True)
class TopKRules(_CapacityRules):
    """Each token chooses its k best experts, and an expert takes what fits its slots.

    Attributes:
        ensemble_size: M, the members of an ensemble (E3), which have E / M experts each; 1 for a plain V-MoE.
    """

    kind = "top-k"
    example = "any name like c0.3-k1, c0.3-k1-vanilla or c0.3-k1-pool-m4 works"

    ensemble_size: int = 1

    @property
    def has_policies(self) -> bool:
        """Whether the graph takes `pool` and `max_experts`; that of an ensemble doesn't."""
        return self.ensemble_size == 1

    @property
    def settings(self) -> tuple[str, ...]:
        """What a call may set, in the order of the graph's inputs."""
        merging = super().settings
        return (*OFFICIAL_SETTINGS, *(POLICIES if self.has_policies else ()), *merging)

    def _choice(self, k: Any, bpr: Any, pool: Any, max_experts: Any) -> dict[str, Any]:
        for name, flag in (("bpr", bpr), ("pool", False if pool is None else pool)):
            if not _is_flag(flag):
                raise RoutingError(f"{name} must be True or False, not {shown(flag)}")
        k, most = _whole("k", k), min(self.experts) // self.ensemble_size
        if not 1 <= k <= most:
            what = "the number of experts" if self.ensemble_size == 1 else "the number of experts of a member"
            raise RoutingError(f"k must be between 1 and {what}, {most}, not {shown(k)}")
        limit = self.num_experts if max_experts is None else _whole("max_experts", max_experts)
        if limit < 1:
            raise RoutingError(f"max_experts must be at least 1, not {shown(limit)}")
        if limit < self.num_experts and self.group_tokens > MAX_MASS_TOKENS:
            raise RoutingError(
                f"max_experts needs groups of at most {MAX_MASS_TOKENS:,} tokens, and these have {self.group_tokens:,}"
            )
        if not self.has_policies:
            return {"k": k, "bpr": bool(bpr), "pool": None, "max_experts": None}
        return {"k": k, "bpr": bool(bpr), "pool": bool(pool), "max_experts": min(limit, self.num_experts)}

    def _refusal(self, names: str) -> str:
        return f"ensembles (E3) are routed officially: they take no {names}"


@dataclass(frozen=True)
class ExpertsChoiceRules(_CapacityRules):
    """Each expert chooses the tokens with the largest gates, as many as it has slots."""

    kind = "experts-choice"
    own_settings = ("capacity",)
    example = "any name like c1.0 works"

    def _refusal(self, names: str) -> str:
        merge = f" and {MERGE}" if MERGE in self.settings else ""
        return f"with experts choice there is nothing to set but the capacity ratio{merge}: it takes no {names}"


@dataclass(frozen=True)
class SoftRules(_Rules):
    """Soft MoE: each slot of an expert is a mean of all tokens, and nothing is dropped.

    Attributes:
        slots_per_expert: P.
    """

    kind = "soft"
    example = "any name like r8 works"

    slots_per_expert: int = 1

    def _refusal(self, names: str) -> str:
        most = f" but {MERGE}" if self.settings else ""
        return f"Soft MoE has nothing to set{most}: it takes no {names}"


@dataclass(frozen=True)
class DenseRules(_Rules):
    """A dense ViT, which routes nothing."""

    kind = "dense"
    example = "any name like r8 works"

    experts: tuple[int, ...] = ()
    group_tokens: int = 0

    def _refusal(self, names: str) -> str:
        return f"this is a dense model: it has no {names}"


Rules = TopKRules | ExpertsChoiceRules | SoftRules | DenseRules
"""What makes a profile of a requested setting, for a model of one kind."""


@lru_cache(maxsize=1024)
def profile_named(rules: Rules, name: str, stored: tuple[str, ...]) -> Profile:
    """As `rules.named`, for calls that repeat a name: reading one takes a tenth of a small model's call."""
    return rules.named(name, stored)


def _number(value: Any) -> float:
    """A capacity ratio of whatever a user gave."""
    try:
        if isinstance(value, str | bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise RoutingError(f"capacity must be a number, not {shown(value)}") from None


def _whole(name: str, value: Any) -> int:
    """An integer of whatever a user gave."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise RoutingError(f"{name} must be a whole number, not {shown(value)}") from None


def _is_flag(value: object) -> bool:
    try:
        return bool(value in (True, False))
    except Exception:  # an array of several, which other libraries refuse in their own ways
        return False
