"""A model's routing rules, which complete the setting of a call.

The module `settings` declares which settings each routing kind has. No other code in the runtime may decide this by testing
the kind.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from vmoe_runtime.capacity import DEFAULT_ROUNDING, Rounding, compute_slots
from vmoe_runtime.errors import RoutingError, shown
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing_kinds import ModelKind, SettingKind
from vmoe_runtime.settings import MERGE, NEEDED, ROWS, SETTINGS, Setting, parse_profile_name, profile_name

if TYPE_CHECKING:
    from typing import Unpack

    from vmoe_runtime.settings import SettingFields

MAX_MASS_TOKENS = 131_071
"""Maximum number of tokens of a group for which the sum of their masses, up to 2^14 each, always fits an int32."""

_SMALL_GROUP = 128  # a number of slots per expert that is always allowed, even if a group has fewer pairs


@dataclass(frozen=True)
class RoutingRules:
    """The routing rules of a model, which turn a requested setting into a profile.

    Attributes:
        kind: the routing kind:
            - "top-k": each token chooses its k best experts, and an expert accepts as many tokens as it has slots.
            - "experts-choice": each expert chooses the tokens with the largest gates, as many as it has slots.
            - "soft": each slot of an expert is a weighted mean of all tokens, and nothing is dropped.
            - "dense": nothing is routed.
        experts: E of each MoE layer.
        group_tokens: S, the number of tokens per routing group; 0 for a dense ViT.
        image_tokens: T, the number of tokens per image; None if the blocks can't merge tokens.
        rounding: how the number of slots is rounded to a whole number, "ceil" or "round".
        capacity_multiple_of: the number of slots is rounded up to a multiple of this number.
        ensemble_size: M, the number of members of an ensemble (E3), which have E / M experts each; 1 for every other model.
        slots_per_expert: P, the number of slots per expert, for Soft MoE only.
    """

    kind: ModelKind
    experts: tuple[int, ...] = ()
    group_tokens: int = 0
    image_tokens: int | None = None
    rounding: Rounding = DEFAULT_ROUNDING
    capacity_multiple_of: int = 1
    ensemble_size: int = 1
    slots_per_expert: int = 0

    @property
    def num_experts(self) -> int:
        """The number of experts E. If it differs between the layers, this is the largest E."""
        return max(self.experts, default=0)

    @property
    def setting_kind(self) -> SettingKind:
        """The setting kind, which determines the settings that the model has."""
        return "ensemble" if self.ensemble_size > 1 else self.kind

    @cached_property
    def settings(self) -> tuple[str, ...]:
        """The names of the model's settings, in the order of the graph's inputs."""
        return tuple(
            name
            for name, row in ROWS.items()
            if self.setting_kind in row.kinds and (self.image_tokens is not None or not row.merging)
        )

    def named(self, name: str, stored: Iterable[str] = ()) -> Profile:
        """Return the profile that a systematic name describes.

        Args:
            name: a systematic name, such as `c0.3-k1`.
            stored: names of the bundle's stored profiles, for the error message.

        Raises:
            RoutingError: the name is not systematic, or belongs to another routing kind.
        """
        setting = parse_profile_name(name)
        if setting is None or any((key in setting.values) != (key in self.settings) for key in NEEDED):
            has = f"the bundle has {', '.join(stored)}, and " if stored else ""
            raise RoutingError(f"there is no profile '{name:.100}'; {has}{self._name_examples()}")
        return self.profile_of(setting)

    def check_names(self, names: Collection[str]) -> None:
        """Check that the model has all settings in `names`.

        Raises:
            RoutingError: the model lacks some of the settings; the message lists the missing settings and gives the reason.
        """
        if refused := [name for name in SETTINGS if name in names and name not in self.settings]:
            if refused == [MERGE]:
                why = (
                    "an ensemble (E3)"
                    if self.ensemble_size > 1
                    else "groups that cut an image, nor where a bundle returns tokens"
                )
                raise RoutingError(f"tokens can't be merged in {why}: it takes no merge")
            *most, last = refused
            raise RoutingError(self._refusal(f"{', '.join(most)} or {last}" if most else last))

    def profile(self, base: Profile | None = None, **fields: Unpack[SettingFields]) -> Profile:
        """Return the profile for a setting whose fields are given as keyword arguments; see `profile_of`."""
        return self.profile_of(Setting(**fields), base)

    def profile_of(self, setting: Setting, base: Profile | None = None) -> Profile:
        """Return the profile for a setting.

        Args:
            setting: the requested values; its field `profile` is ignored.
            base: the profile that provides the values that `setting` lacks; None for the default values.

        Raises:
            RoutingError: the model doesn't have one of the requested settings, or can't be run with a requested value.
        """
        requested = setting.values
        self.check_names(requested.keys())
        given = {**(base.values if base else {}), **requested}
        values: dict[str, Any] = {name: ROWS[name].check(given.get(name, ROWS[name].default)) for name in self.settings}
        self._check(values)
        named = dict(values)
        if "max_experts" in values and values["max_experts"] >= self.num_experts:
            # A limit of E experts is the same as no limit, so the name omits it.
            named["max_experts"], values["max_experts"] = ROWS["max_experts"].default, self.num_experts
        slots = self._slots(values)
        pairs = self.group_tokens * (values.get("k") or 1) * len(slots)
        ratio = float(sum(map(operator.mul, slots, self.experts))) / float(pairs) if slots else None
        profile = Profile(profile_name(Setting.of(named)), **values, slots=slots, effective_ratio=ratio)
        object.__setattr__(profile, "rules", self)
        return profile

    def _name_examples(self) -> str:
        if "k" in self.settings:
            return "any name like c0.3-k1, c0.3-k1-vanilla or c0.3-k1-pool-m4 works"
        if "capacity" in self.settings:
            return "any name like c1.0 works"
        merging = "any name like r8 works, which merges 8 tokens of an image in each block"
        return merging if self.settings else "the model has nothing to set"

    def _refusal(self, names: str) -> str:
        """Return the reason why models of this routing kind don't have the settings in `names`."""
        merges = MERGE in self.settings
        match self.kind:
            case "dense":
                return f"this is a dense model: it has no {names}"
            case "soft":
                return f"Soft MoE has nothing to set{f' but {MERGE}' * merges}: it takes no {names}"
            case "experts-choice":
                also = f" and {MERGE}" * merges
                return f"with expert choice there is nothing to set but the capacity ratio{also}: it takes no {names}"
        return f"ensembles (E3) are routed officially: they take no {names}"

    def _check(self, values: dict[str, Any]) -> None:
        """Check that the model can be run with `values`. They must be complete, and each value must be valid by itself.

        Raises:
            RoutingError: the model can't be run with the values; the message gives the reason.
        """
        if "k" in values:
            k, most = values["k"], min(self.experts) // self.ensemble_size
            if not 1 <= k <= most:
                what = "the number of experts" if self.ensemble_size == 1 else "the number of experts of a member"
                raise RoutingError(f"k must be between 1 and {what}, {most}, not {shown(k)}")
        if values.get("max_experts", self.num_experts) < self.num_experts and self.group_tokens > MAX_MASS_TOKENS:
            raise RoutingError(
                f"max_experts needs groups of at most {MAX_MASS_TOKENS:,} tokens, and these have {self.group_tokens:,}"
            )
        ratio = values.get("capacity", 0)
        if ratio > self.num_experts:
            raise RoutingError(
                f"the capacity ratio {ratio:g} is larger than the number of experts, {self.num_experts}; "
                f"from {self.num_experts / (values.get('k') or 1):g} on no token is dropped"
            )

    def _slots(self, values: dict[str, Any]) -> tuple[int, ...]:
        """Return the number of slots per expert and group, one integer per MoE layer.

        If the routing kind has no capacity, the result is empty.
        """
        if "capacity" not in values:
            return ()
        ratio, pairs = values["capacity"], self.group_tokens * (values.get("k") or 1)
        # With a ratio of E, a layer drops no token. A larger ratio gives the layer no more slots, because it is treated as
        # E.
        slots = {
            experts: compute_slots(pairs, experts, min(ratio, experts), self.rounding, self.capacity_multiple_of)
            for experts in dict.fromkeys(self.experts)
        }
        # An expert receives at most all pairs of a group. So rounding the number of slots far above the number of pairs
        # would only waste memory.
        if (most := max(slots.values())) > max(2 * pairs, _SMALL_GROUP):
            raise RoutingError(
                f"rounding up to a multiple of {self.capacity_multiple_of} gives {most} slots per expert, "
                f"where a group has {pairs} token-expert pairs"
            )
        return tuple(slots[experts] for experts in self.experts)


@lru_cache(maxsize=1024)
def profile_named(rules: RoutingRules, name: str, stored: tuple[str, ...]) -> Profile:
    """Return `rules.named(name, stored)` from a cache, for calls that repeat a name.

    Parsing a name takes 25 us. In a small model, this is a tenth of the call time.
    """
    return rules.named(name, stored)
