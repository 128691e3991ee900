"""The levels of elastic capacity: the settings that a server may choose between, timed on the machine that serves."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from vmoe_measure.image_source import synthetic_images
from vmoe_runtime import Engine
from vmoe_runtime.profiles import Profile
from vmoe_serve.elastic import Elastic, Level, fitted_level

_ROUNDS = 5


def timed_levels(engine: Engine, profiles: Sequence[Profile], most_images: int) -> tuple[list[Level], list[str]]:
    """What calls of settings take here: of one image, and of as many as a call may have.

    All settings take turns, so that what slows the machine down for a while slows down all.

    Args:
        engine: of a bundle that routes every image alone.
        profiles: the settings, the least accurate first.
        most_images: of a call.

    Returns:
        The levels, the cheapest first; and notes, a sentence each: a setting that takes no less time than a more accurate
        one is left out.
    """
    sizes = sorted({1, most_images})
    source = synthetic_images(most_images, engine.manifest.input)
    batches = {size: source.first_batch(size, engine.manifest.input) for size in sizes}
    cells = [(profile.name, size) for profile in profiles for size in sizes]
    for name, size in cells:
        engine(batches[size], name)
    taken: dict[tuple[str, int], list[float]] = {cell: [] for cell in cells}
    for _ in range(_ROUNDS):
        for name, size in cells:
            start = time.perf_counter()
            engine(batches[size], name)
            taken[name, size].append(time.perf_counter() - start)
    levels = [
        fitted_level(profile.name, [(size, float(np.median(taken[profile.name, size]))) for size in sizes])
        for profile in profiles
    ]
    return cheaper_ones(levels, most_images)


def cheaper_ones(levels: Sequence[Level], most_images: int) -> tuple[list[Level], list[str]]:
    """The levels whose full calls take less time than those of all later ones, and a note for each other one.

    Args:
        levels: the least accurate first.
        most_images: of a full call.
    """
    kept: list[Level] = []
    notes = []
    for level in reversed(levels):
        if kept and _whole(level, most_images) >= _whole(kept[-1], most_images):
            notes.append(f"{level.profile} is left out: it takes no less time here than {kept[-1].profile}")
        else:
            kept.append(level)
    return kept[::-1], notes[::-1]


def elastic_plan(engine: Engine, profiles: Sequence[Profile], target: float, most_images: int) -> tuple[Elastic, list[str]]:
    """A plan for these settings on this machine.

    Args:
        engine: of a bundle that routes every image alone.
        profiles: the settings, the least accurate first.
        target: seconds from a request's arrival to its answer.
        most_images: of a call.

    Returns:
        The plan, and notes about it, a sentence each.

    Raises:
        ElasticError: a target that is none.
    """
    levels, notes = timed_levels(engine, profiles, most_images)
    plan = Elastic(tuple(levels), target, most_images)
    least = 2 * (levels[0].fixed + levels[0].each)
    if least > target:
        notes.append(
            f"the target of {target * 1e3:.3g} ms can't be kept: two calls of one image at {levels[0].profile} take "
            f"{least * 1e3:.3g} ms here, and an image that comes while another one is served waits for both"
        )
    return plan, notes


def _whole(level: Level, images: int) -> float:
    return level.fixed + level.each * images
