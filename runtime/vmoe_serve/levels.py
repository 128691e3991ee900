"""The settings that a server chooses between, and how long their calls take on the server's machine."""

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
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.profiles import Profile
from vmoe_serve.elastic import Elastic, Level, fitted_level
from vmoe_serve.endpoints import MAX_NAME

_ROUNDS = 5


def levels(manifest: Manifest, ratios: Sequence[float], profiles: Sequence[str]) -> list[Profile]:
    """Return the settings that elastic capacity chooses between, from the least to the most accurate.

    Args:
        manifest: manifest of the bundle.
        ratios: capacity ratios, in rising order; may be empty.
        profiles: names of profiles, from the least to the most accurate. If there are `ratios`, `profiles` contains at most
            one name. The profile of this name provides the other fields of each setting. If `profiles` and `ratios` are
            empty, the stored profiles are used, in the order of their capacity.

    Raises:
        click.UsageError: the bundle has no settings to choose between, or can't be run at one of the ratios.
        RoutingError: the model can't be run with one of the profiles.
    """
    chosen = [manifest.profile_named(name) for name in profiles]
    stored = sorted(manifest.profiles.values(), key=lambda profile: (profile.effective_ratio or 0, -(profile.merge or 0)))
    if not stored:
        raise click.UsageError("--slo-ms chooses between settings, and the bundle has none")
    if not ratios:
        return chosen or stored
    base = chosen[0] if chosen else next(iter(manifest.profiles.values()))
    found: dict[Profile, Profile] = {}
    for ratio in ratios:
        try:
            profile = manifest.rules.profile(base, capacity=ratio)
        except RoutingError as error:
            raise click.UsageError(f"--capacity {ratio:g}: {error}") from None
        # If two ratios are rounded to the same slots, they give only one level.
        found.setdefault(profile.effect, profile)
    return list(found.values())


def served_manifest(bundle: Path) -> Manifest:
    """Check all bytes of a bundle and return its manifest. The bundle must route every image alone.

    If the bundle routed several images together, an answer would depend on the other images in its call.

    Raises:
        BundleError: the bundle is damaged, or not a bundle.
        click.ClickException: the bundle routes images in groups.
    """
    with Bundle.open(bundle) as opened:
        opened.verify_weights()
        manifest = opened.manifest
    if manifest.batch_multiple != 1:
        raise click.ClickException(
            f"{bundle} routes images in groups ({manifest.group}), so an answer would depend on the images of other "
            "requests; export it with --group image to serve it"
        )
    return manifest


def model_name(bundle: Path) -> str:
    """Return the name that a bundle's model has in URLs.

    It is the name of the bundle's folder without the suffix `.vmoe`. Characters that are not allowed are replaced by "-".
    """
    stem = bundle.resolve().name.removesuffix(".vmoe")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:MAX_NAME] or "model"


def elastic_plan(engine: Engine, profiles: Sequence[Profile], target: float, most_images: int) -> tuple[Elastic, list[str]]:
    """Return a plan for elastic capacity that chooses between the given settings on this machine.

    Args:
        engine: an engine whose bundle routes every image alone.
        profiles: the settings, from the least to the most accurate.
        target: maximum time from a request's arrival to its answer, in seconds.
        most_images: maximum number of images per call.

    Returns:
        A plan, and notes that explain the plan to people. A setting becomes a level of the plan if it is faster than all
        settings that are more accurate.

    Raises:
        ElasticError: the target is out of range.
    """
    levels, notes = cheaper_ones(_timed_levels(engine, profiles, most_images), most_images)
    plan = Elastic(tuple(levels), target, most_images)
    least = 2 * (levels[0].fixed + levels[0].each)
    if least > target:
        notes.append(
            f"the target of {target * 1e3:.3g} ms can't be kept: two calls of one image at {levels[0].profile} take "
            f"{least * 1e3:.3g} ms here, and an image that arrives during a call waits for that call and its own"
        )
    return plan, notes


def cheaper_ones(levels: Sequence[Level], most_images: int) -> tuple[list[Level], list[str]]:
    """Return the levels that are faster than all more accurate levels, and a note about each level that is left out.

    Args:
        levels: the levels, from the least to the most accurate.
        most_images: number of images in a full call. The levels' times for full calls are compared.
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
    """Time calls with one image and calls with `most_images` images, and return a level for each setting.

    The settings take turns. So if the machine is slow for a while, this affects all of them.
    """
    sizes = sorted({1, most_images})
    source = synthetic_images(most_images, engine.manifest.input)
    batches = {size: source.first_batch(size, engine.manifest.input) for size in sizes}
    taken: dict[tuple[Profile, int], list[float]] = {(profile, size): [] for profile in profiles for size in sizes}
    for _ in range(1 + _ROUNDS):
        for (profile, size), times in taken.items():
            start = time.perf_counter()
            engine(batches[size], profile)
            times.append(time.perf_counter() - start)
    return [
        # Leave out the first round, which only warms up the engine.
        fitted_level(profile.name, [(size, float(np.median(taken[profile, size][1:]))) for size in sizes])
        for profile in profiles
    ]
