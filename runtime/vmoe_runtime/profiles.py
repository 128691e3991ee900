"""Profiles: complete settings for one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from vmoe_runtime.settings import OFFICIAL_SETTINGS, POLICIES, ROWS, Setting, SettingValue, parse_profile_name


@dataclass(frozen=True)
class Profile(Setting):
    """A checked routing setting for one model, with the resulting slots.

    If a routing kind doesn't have a field, the field is None.

    Attributes:
        slots: number of slots per expert and group, one integer per MoE layer.
        effective_ratio: C after rounding to whole slots. It is the mean of c * E / (S * K) over the MoE layers.
        rules: the `RoutingRules` of the model; None for a profile that was made by hand.

    The other attributes are those of `Setting`; `max_experts` is E if there is no limit.
    """

    slots: tuple[int, ...] = ()
    effective_ratio: float | None = None
    # `rules` is not an argument. Otherwise, `dataclasses.replace` would copy the rules even if it changes values so that
    # they no longer match the slots.
    rules: object = field(default=None, init=False, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The profile's systematic name. Examples:

        - `c0.3-k1` (Batch Priority Routing), `c0.3-k1-vanilla` and `c0.2-k1-pool-m4-r8`
        - `c1.0` (expert choice)
        - `r8` for a model that merges tokens and has no capacity
        """
        return self.profile or ""

    @property
    def capacity_ratio(self) -> float | None:
        """The requested capacity ratio C, before rounding to whole slots."""
        return self.capacity

    @cached_property
    def inputs(self) -> dict[str, np.ndarray[Any, np.dtype[np.int64]]]:
        """The inputs that select this setting in the graph, as arrays by input name.

        The input `capacity` contains the slots as int64[MoE layers]. Each other setting that is not None is an input
        int64[1].
        """
        # Cache the arrays. Most calls use the same profile as the previous call. In a small model, building the arrays
        # takes 2 % of the call time.
        values = {name: self.slots if name == "capacity" else [value] for name, value in self.values.items()}
        return {name: np.array(value, np.int64) for name, value in values.items()}

    @property
    def route_arguments(self) -> dict[str, Any]:
        """The arguments of top-k routing except gates and slots, by name: `k`, `bpr`, and the model's policies."""
        # Don't use `values` here: before Python 3.12, cached properties have a lock, which torch's compiler can't enter.
        names = (*OFFICIAL_SETTINGS[1:], *POLICIES)
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def named_values(self) -> dict[str, SettingValue]:
        """The values that appear in the profile's name because they differ from their defaults."""
        said = parse_profile_name(self.name)
        return {} if said is None else said.values

    @property
    def policies(self) -> list[str]:
        """The names of the policies that the profile sets; see `vmoe_runtime.settings.POLICIES`.

        Official routing has no policies.
        """
        return [name for name in self.named_values if name in POLICIES]

    @cached_property
    def effect(self) -> Profile:
        """The profile without its name and ratios. Profiles that route in the same way have equal effects.

        The name and the ratios must be left out, because they may differ between profiles with the same slots.
        """
        return replace(self, profile=None, capacity=None, effective_ratio=None)

    def stored(self) -> dict[str, SettingValue | None]:
        """Return the value of every setting, by its key in manifests and results."""
        return {row.stored: getattr(self, name) for name, row in ROWS.items()}

    def entry(self) -> dict[str, Any]:
        """Return the profile's entry in a manifest. Its `capacity` is the list of slots, as in the graph's inputs."""
        ratio = {"effective_ratio": self.effective_ratio}
        return {"name": self.name, **self.stored(), "capacity": self.slots or None, **ratio}


SettingLike: TypeAlias = Profile | Setting | str | None


def by_layer(experts: Sequence[int]) -> str:
    """Return E, the number of experts in each MoE layer, as text.

    If E is the same in all layers, it is given only once. Otherwise, the text lists E of each layer in order.

    Examples:
        >>> by_layer((8, 8)), by_layer((8, 5, 8))
        ('8', '8/5/8')
    """
    return "/".join(map(str, experts if len(set(experts)) > 1 else experts[:1]))


def slots_range(slots: Sequence[int]) -> str:
    """Return the range of the MoE layers' slots as text.

    The text is the smallest and the largest number of slots, or one number if they are equal.

    Examples:
        >>> slots_range((7, 7)), slots_range((7, 11, 9))
        ('7', '7-11')
    """
    return "-".join(map(str, sorted({min(slots), max(slots)})))
