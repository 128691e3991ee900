"""Profiles: complete settings of one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from vmoe_runtime.settings import OFFICIAL_SETTINGS, POLICIES, ROWS, Setting, SettingValue, parse_profile_name


@dataclass(frozen=True)
class Profile(Setting):
    """A checked routing setting of one model, with its slots. Fields that a routing kind doesn't have are None.

    Attributes:
        slots: number of slots per expert and group, one integer per MoE layer.
        effective_ratio: C after rounding to whole slots: c * E / (S * K), the mean over the MoE layers.
        rules: the `RoutingRules` of its model; None for a profile that was made by hand.

    The other attributes are those of `Setting`; `max_experts` is E if there is no limit.
    """

    slots: tuple[int, ...] = ()
    effective_ratio: float | None = None
    # Not an argument, because `dataclasses.replace` would keep the rules, even for values that don't match the slots.
    rules: object = field(default=None, init=False, compare=False, repr=False)

    @property
    def name(self) -> str:
        """Its systematic name, such as `c0.3-k1` (Batch Priority Routing), `c0.3-k1-vanilla`, `c0.2-k1-pool-m4-r8`, `c1.0`
        (experts choice), or `r8` if the model merges and has no capacity.
        """
        return self.profile or ""

    @property
    def capacity_ratio(self) -> float | None:
        """C as it was requested."""
        return self.capacity

    @cached_property
    def inputs(self) -> dict[str, np.ndarray[Any, np.dtype[np.int64]]]:
        """The graph inputs that select this setting: `capacity`, the slots as i64[MoE layers], and i64[1] for every other
        setting that is not None.
        """
        # Most calls have the profile of the previous call, and building these takes 2 % of a small model's call.
        values = {name: self.slots if name == "capacity" else [value] for name, value in self.values.items()}
        return {name: np.array(value, np.int64) for name, value in values.items()}

    @property
    def route_arguments(self) -> dict[str, Any]:
        """The arguments of top-k routing besides gates and slots, by name: `k`, `bpr`, and the policies of the model."""
        # `values` is not used here: torch's compiler can't enter the lock that cached properties have before Python 3.12.
        names = (*OFFICIAL_SETTINGS[1:], *POLICIES)
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def named_values(self) -> dict[str, SettingValue]:
        """The values in its name: those that are not the default."""
        said = parse_profile_name(self.name)
        return {} if said is None else said.values

    @property
    def policies(self) -> list[str]:
        """The names of the policies that it sets, which official routing lacks; see `vmoe_runtime.settings.POLICIES`."""
        return [name for name in self.named_values if name in POLICIES]

    @cached_property
    def effect(self) -> Profile:
        """The profile without its name and ratios, which may differ between profiles with the same slots: equal for all
        profiles that route alike.
        """
        return replace(self, profile=None, capacity=None, effective_ratio=None)

    def stored(self) -> dict[str, SettingValue | None]:
        """The value of every setting, by its key in manifests and results."""
        return {row.stored: getattr(self, name) for name, row in ROWS.items()}

    def entry(self) -> dict[str, Any]:
        """Its entry in a manifest. As in the graph's inputs, `capacity` is the list of slots."""
        ratio = {"effective_ratio": self.effective_ratio}
        return {"name": self.name, **self.stored(), "capacity": self.slots or None, **ratio}


SettingLike: TypeAlias = Profile | Setting | str | None


def by_layer(experts: Sequence[int]) -> str:
    """E of the MoE layers as text. If the layers differ, it lists each one's E in order.

    Examples:
        >>> by_layer((8, 8)), by_layer((8, 5, 8))
        ('8', '8/5/8')
    """
    return "/".join(map(str, experts if len(set(experts)) > 1 else experts[:1]))


def slots_range(slots: Sequence[int]) -> str:
    """The range of the MoE layers' slots as text, from the fewest to the most.

    Examples:
        >>> slots_range((7, 7)), slots_range((7, 11, 9))
        ('7', '7-11')
    """
    return "-".join(map(str, sorted({min(slots), max(slots)})))
