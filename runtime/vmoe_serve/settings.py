"""The settings that a server may choose between, and what they take on the machine that serves."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from vmoe_measure.image_source import synthetic_images
from vmoe_runtime import Engine, RoutingError
from vmoe_runtime.bundle.manifest import Manifest
from vmoe_runtime.profiles import Profile
from vmoe_serve.elastic import Elastic, Level, fitted_level

_ROUNDS = 5


def named(manifest: Manifest, name: str) -> Profile:
    """The profile of a name.

    Raises:
        RoutingError: the model can't be run with it.
        click.UsageError: it has no settings.
    """
    if name in manifest.profiles:
        return manifest.profiles[name]
    if not manifest.moe_layers or not manifest.profiles:
        raise click.UsageError(f"the bundle has nothing to set: it has no profile '{name:.80}'")
    return manifest.rules.named(name, manifest.profiles)


def levels(manifest: Manifest, ratios: Sequence[float], profiles: Sequence[str]) -> list[Profile]:
    """The settings that elastic capacity chooses between, the least accurate first.

    Args:
        manifest: the bundle's.
        ratios: capacity ratios, rising; empty for none.
        profiles: names, the least accurate first; with `ratios` the one that says what else a setting has. Empty for the
            stored ones, in the order of their capacity.

    Raises:
        click.UsageError: there is nothing to choose between.
        RoutingError: the model can't be run with one of them.
    """
    chosen = [named(manifest, name) for name in profiles]
    stored = sorted(manifest.profiles.values(), key=lambda profile: (profile.effective_ratio or 0, -(profile.merge or 0)))
    if not stored:
        raise click.UsageError("--slo-ms chooses between settings, and the bundle has none")
    if not ratios:
        return chosen or stored
    if not manifest.moe_layers:
        raise click.UsageError("--capacity: the bundle has no capacity to choose")
    base = chosen[0] if chosen else next(iter(manifest.profiles.values()))
    found: dict[Profile, Profile] = {}
    for ratio in ratios:
        try:
            profile = manifest.rules.profile(base, capacity=ratio)
        except RoutingError as error:
            raise click.UsageError(f"--capacity {ratio:g}: {error}") from None
        # Ratios that come to the same slots are one level.
        found.setdefault(profile.effect, profile)
    return list(found.values())


def check_served(manifest: Manifest, bundle: Path) -> None:
    """Refuses a bundle whose answers depend on which images are answered together.

    Raises:
        click.ClickException: it is one.
    """
    if manifest.batch_multiple != 1:
        raise click.ClickException(
            f"{bundle} routes images in groups ({manifest.group}), so that an answer would depend on other people's images; "
            "export it with --group image to serve it"
        )


def model_name(bundle: Path) -> str:
    """The name of a bundle's model in addresses: that of its folder, as far as it fits into one."""
    stem = bundle.resolve().name.removesuffix(".vmoe")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:100] or "model"


def elastic_plan(engine: Engine, profiles: Sequence[Profile], target: float, most_images: int) -> tuple[Elastic, list[str]]:
    """A plan for these settings on this machine.

    Args:
        engine: of a bundle that routes every image alone.
        profiles: the settings, the least accurate first.
        target: seconds from a request's arrival to its answer.
        most_images: of a call.

    Returns:
        The plan, whose levels are those that take less time than all more accurate ones; and notes about it.

    Raises:
        ElasticError: the target is out of range.
    """
    levels, notes = cheaper_ones(_timed_levels(engine, profiles, most_images), most_images)
    plan = Elastic(tuple(levels), target, most_images)
    least = 2 * (levels[0].fixed + levels[0].each)
    if least > target:
        notes.append(
            f"the target of {target * 1e3:.3g} ms can't be kept: two calls of one image at {levels[0].profile} take "
            f"{least * 1e3:.3g} ms here, and an image that comes while another one is served waits for both"
        )
    return plan, notes


def cheaper_ones(levels: Sequence[Level], most_images: int) -> tuple[list[Level], list[str]]:
    """The levels whose full calls take less time than those of all later ones, and a note for each other one.

    Args:
        levels: the least accurate first.
        most_images: of a full call.
    """
    kept: list[Level] = []
    notes = []
    for level in reversed(levels):
        if kept and level.fixed + level.each * most_images >= kept[-1].fixed + kept[-1].each * most_images:
            notes.append(f"{level.profile} is left out: it takes no less time here than {kept[-1].profile}")
        else:
            kept.append(level)
    return kept[::-1], notes[::-1]


def _timed_levels(engine: Engine, profiles: Sequence[Profile], most_images: int) -> list[Level]:
    """What calls of settings take here: of one image, and of as many as a call may have.

    All settings take turns, so that what slows the machine down for a while slows down all.
    """
    sizes = sorted({1, most_images})
    source = synthetic_images(most_images, engine.manifest.input)
    batches = {size: source.first_batch(size, engine.manifest.input) for size in sizes}
    taken: dict[tuple[str, int], list[float]] = {(profile.name, size): [] for profile in profiles for size in sizes}
    for _ in range(1 + _ROUNDS):
        for (name, size), times in taken.items():
            start = time.perf_counter()
            engine(batches[size], name)
            times.append(time.perf_counter() - start)
    return [
        # The first round warms up.
        fitted_level(profile.name, [(size, float(np.median(taken[profile.name, size][1:]))) for size in sizes])
        for profile in profiles
    ]
