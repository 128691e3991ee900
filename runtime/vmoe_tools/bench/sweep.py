"""The settings of a sweep: every combination of capacity ratios and other axes, as profiles of one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import click

from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing_kinds import KIND_NAMES, Rules
from vmoe_tools.options import ratios_of


@dataclass(frozen=True)
class Axes:
    """What a sweep varies. An axis without values stays as it is in the profile that the sweep starts from.

    Attributes:
        k: experts per token.
        bpr: True for Batch Priority Routing, False for vanilla order.
        pool: whether the slots of a group are one pool.
        max_experts: experts that a group may use.
        merge: tokens that each encoder block merges.
        capacity_ratio: capacity ratios.
    """

    k: tuple[int, ...] = ()
    bpr: tuple[bool, ...] = ()
    pool: tuple[bool, ...] = ()
    max_experts: tuple[int, ...] = ()
    merge: tuple[int, ...] = ()
    capacity_ratio: tuple[float, ...] = ()

    @classmethod
    def of(cls, values: dict[str, Any]) -> Axes:
        """Takes the values of `axis_options` out of a command's."""
        ratios = ratios_of(values.pop("sweeps"), values.pop("capacities"))
        names = ("k", "bpr", "pool", "max_experts", "merge")
        return cls(**{name: tuple(dict.fromkeys(values.pop(name))) for name in names}, capacity_ratio=ratios)


def sweep_profiles(rules: Rules, base: Profile | None, axes: Axes) -> tuple[list[Profile], list[str]]:
    """The profiles of a sweep.

    Args:
        rules: of the model.
        base: the profile that says what no axis does; None for a model that has none.
        axes: what to vary.

    Returns:
        The profiles, capacity rising fastest; and a note on each that stands for others, which have the same number of slots
        and merge as many tokens, and are left out. It has the capacity ratio of these slots, which may be far from the
        name's.

    Raises:
        click.UsageError: the model has no capacity.
        RoutingError: it can't be run with one of the settings.
    """
    if "capacity" not in rules.settings and (base is None or axes.capacity_ratio) and axes != Axes(merge=axes.merge):
        raise click.UsageError(f"the bundle is a {KIND_NAMES[rules.kind]}, which has no capacity, k or order to choose")
    varied: dict[str, Sequence[Any]] = {name: several for name, several in vars(axes).items() if several}
    profiles: dict[Profile, Profile] = {}
    left_out: dict[Profile, list[str]] = {}
    for chosen in product(*varied.values()):
        profile = rules.profile(**dict(zip(varied, chosen, strict=True)), base=base)
        # Requested ratios may differ where the integer number of slots doesn't; a block merges at most half of its tokens.
        merge = profile.merge and min(profile.merge, (rules.image_tokens or 0) // 2)
        same = profiles.setdefault(replace(profile, name="", capacity_ratio=0, merge=merge), profile)
        if same != profile:
            left_out.setdefault(same, []).append(profile.name)
    return list(profiles.values()), [_note(same, names) for same, names in left_out.items()]


def _note(kept: Profile, names: Sequence[str]) -> str:
    ratio = "" if kept.effective_ratio is None else f" (effectively {kept.effective_ratio:.3g})"
    return f"not measured, as they do what {kept.name} does{ratio}: {', '.join(names)}"
