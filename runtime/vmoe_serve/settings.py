"""The settings that a server is asked to choose between, as names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from vmoe_runtime.bundle.manifest import Manifest
from vmoe_runtime.profiles import Profile
from vmoe_tools.bench.sweep import Axes, read_ratios, sweep_profiles
from vmoe_tools.command_line import CommandError, UsageError


def named(manifest: Manifest, name: str) -> Profile:
    """The profile of a name.

    Raises:
        RoutingError: the model can't be run with it.
        UsageError: it has no settings.
    """
    if name in manifest.profiles:
        return manifest.profiles[name]
    if manifest.rules is None or not manifest.profiles:
        raise UsageError(f"the bundle has nothing to set: it has no profile '{name:.80}'")
    return manifest.rules.named(name, manifest.profiles)


def levels(manifest: Manifest, capacity: Sequence[str], profiles: Sequence[str]) -> tuple[list[Profile], list[str]]:
    """The settings that elastic capacity chooses between, the least accurate first, and notes about them.

    Args:
        manifest: the bundle's.
        capacity: ratios and ranges of them; empty for none.
        profiles: names, the least accurate first; with `capacity` the one that says what else a setting has. Empty for the
            stored ones, which are put in the order of their places.

    Raises:
        UsageError: there is nothing to choose between.
        RoutingError: the model can't be run with one of them.
    """
    given = [named(manifest, name) for name in profiles]
    if capacity:
        base = given[0] if given else next(iter(manifest.profiles.values()), None)
        return sweep_profiles(manifest.rules, base, Axes(read_ratios(capacity, "--capacity")), "--capacity")
    found = given or sorted(manifest.profiles.values(), key=lambda profile: sum(profile.slots))
    if not found:
        raise UsageError("--slo-ms chooses between settings, and the bundle has none")
    return found, []


def check_served(manifest: Manifest, bundle: Path) -> None:
    """Refuses a bundle whose answers depend on which images are answered together.

    Raises:
        CommandError: it is one.
    """
    if manifest.batch_multiple != 1:
        raise CommandError(
            f"{bundle} routes images in groups ({manifest.group}), so that an answer would depend on other people's images; "
            "export it with --group image to serve it"
        )


def model_name(bundle: Path) -> str:
    """The name of a bundle's model in addresses: that of its folder, as far as it fits into one."""
    stem = bundle.resolve().name.removesuffix(".vmoe")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:100] or "model"
