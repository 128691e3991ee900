"""The settings of a sweep: every combination of capacity ratios and other axes, as profiles of one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import click

from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing_kinds import KIND_NAMES
from vmoe_runtime.routing_rules import RoutingRules
from vmoe_runtime.settings import MERGE, SETTINGS, Setting, SettingValue
from vmoe_tools.options import ratios_of

Axes = Mapping[str, tuple[SettingValue, ...]]
"""The values that a sweep varies, by the names of settings. Other settings stay as in the base profile."""


def axes_of(given: dict[str, Any]) -> Axes:
    """Remove the values of `vmoe_tools.options.axis_options` from a command's options. Return them as axes."""
    ratios = ratios_of(given.pop("sweeps"), given.pop("capacity"))
    axes = {name: ratios if name == "capacity" else tuple(dict.fromkeys(given.pop(name))) for name in SETTINGS}
    # Put capacity last, so that it varies fastest in the product of the axes.
    return {name: axes[name] for name in (*SETTINGS[1:], *SETTINGS[:1]) if axes[name]}


def sweep_profiles(rules: RoutingRules, base: Profile | None, axes: Axes) -> tuple[list[Profile], list[str]]:
    """Return the profiles of a sweep.

    A profile is left out if it has the same effect as an earlier one: it gives the same number of slots, and merges as many
    tokens.

    Args:
        rules: routing rules of the model.
        base: the profile with the settings that no axis varies; None for a model without profiles.
        axes: the values to vary.

    Returns:
        The profiles, in an order in which capacity varies fastest, and notes. Each note is about one measured profile, and
        lists the profiles that were left out because they have the same effect. It also states the measured profile's
        effective capacity ratio, which may be far from the requested ratio.

    Raises:
        click.UsageError: the model has no capacity.
        RoutingError: the model can't be run with one of the settings.
    """
    if "capacity" not in rules.settings and not axes.keys() <= {*rules.settings, MERGE}:
        raise click.UsageError(f"the bundle is a {KIND_NAMES[rules.kind]}, which has no capacity, k or order to choose")
    if "capacity" in axes:  # check the largest ratio first, because an error about it shows what the user typed
        rules.profile_of(Setting.of({"capacity": max(axes["capacity"])}), base)
    profiles: dict[Profile, Profile] = {}
    left_out: dict[Profile, list[str]] = {}
    for chosen in product(*axes.values()):
        profile = rules.profile_of(Setting.of(dict(zip(axes, chosen, strict=True))), base)
        # Different profiles may have the same effect, because ratios are rounded to whole slots, and a block merges at most
        # half of its tokens.
        merge = profile.merge and min(profile.merge, (rules.image_tokens or 0) // 2)
        same = profiles.setdefault(replace(profile.effect, merge=merge), profile)
        if same != profile:
            left_out.setdefault(same, []).append(profile.name)
    return list(profiles.values()), [_note(same, names) for same, names in left_out.items()]


def _note(kept: Profile, names: Sequence[str]) -> str:
    ratio = "" if kept.effective_ratio is None else f" (effectively {kept.effective_ratio:.3g})"
    return f"not measured, because they have the same effect as {kept.name}{ratio}: {', '.join(names)}"
