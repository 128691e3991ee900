"""The settings of a sweep: every combination of capacity ratios and other axes, as profiles of one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import click

from vmoe_runtime.profiles import Profile, Rules
from vmoe_runtime.routing_kinds import KIND_NAMES
from vmoe_runtime.settings import MERGE, SETTINGS, Setting, SettingValue
from vmoe_tools.options import ratios_of

Axes = Mapping[str, tuple[SettingValue, ...]]
"""What a sweep varies: the values of settings by name. Other settings stay as in the profile that it starts from."""


def axes_of(given: dict[str, Any]) -> Axes:
    """Takes the values of `vmoe_tools.options.axis_options` out of those of a command."""
    ratios = ratios_of(given.pop("sweeps"), given.pop("capacity"))
    axes = {name: ratios if name == "capacity" else tuple(dict.fromkeys(given.pop(name))) for name in SETTINGS}
    # The capacity rises fastest.
    return {name: axes[name] for name in (*SETTINGS[1:], *SETTINGS[:1]) if axes[name]}


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
    if "capacity" not in rules.settings and not axes.keys() <= {*rules.settings, MERGE}:
        raise click.UsageError(f"the bundle is a {KIND_NAMES[rules.kind]}, which has no capacity, k or order to choose")
    if "capacity" in axes:  # the largest ratio first, which is the one that was typed if it is too large
        rules.profile_of(Setting.of({"capacity": max(axes["capacity"])}), base)
    profiles: dict[Profile, Profile] = {}
    left_out: dict[Profile, list[str]] = {}
    for chosen in product(*axes.values()):
        profile = rules.profile_of(Setting.of(dict(zip(axes, chosen, strict=True))), base)
        # Requested ratios may differ where the integer number of slots doesn't; a block merges at most half of its tokens.
        merge = profile.merge and min(profile.merge, (rules.image_tokens or 0) // 2)
        same = profiles.setdefault(replace(profile.effect, merge=merge), profile)
        if same != profile:
            left_out.setdefault(same, []).append(profile.name)
    return list(profiles.values()), [_note(same, names) for same, names in left_out.items()]


def _note(kept: Profile, names: Sequence[str]) -> str:
    ratio = "" if kept.effective_ratio is None else f" (effectively {kept.effective_ratio:.3g})"
    return f"not measured, as they do what {kept.name} does{ratio}: {', '.join(names)}"
