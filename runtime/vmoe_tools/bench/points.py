"""The points of a measurement: every profile of every bundle on every backend, batch size and number of concurrent calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import click
import numpy as np

from vmoe_runtime import Engine, Setting
from vmoe_runtime.bundle.manifest import InputSpec
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing import Array
from vmoe_tools.engines import LoadedBundle


@dataclass(frozen=True)
class Point:
    """One setting that is measured.

    Attributes:
        loaded: the loaded bundle on one backend; points share it.
        profile: the routing setting; None for a dense model and a Soft MoE.
        batch_size: images per call.
        concurrency: concurrent calls.
    """

    loaded: LoadedBundle
    profile: Profile | None
    batch_size: int
    concurrency: int = 1

    @property
    def engine(self) -> Engine:
        """The loaded bundle."""
        return self.loaded.engine

    @property
    def takes(self) -> tuple[int, InputSpec]:
        """How many images a call takes, and which."""
        return self.batch_size, self.engine.manifest.input

    def logits(self, batch: Array) -> Array:
        """float32[N, classes] of a batch of `batch_size` images, or what the bundle outputs instead."""
        return self.engine.outputs(batch, self.profile)[self.engine.manifest.output]


def plan_points(
    engines: Sequence[LoadedBundle],
    profiles: Sequence[Sequence[Profile | None]],
    batch_sizes: Sequence[int],
    concurrencies: Sequence[int] = (1,),
) -> list[Point]:
    """Every requested combination, each once.

    Args:
        engines: one per bundle and backend, or several where each runs only one profile.
        profiles: those that each of them is measured at.
        batch_sizes: images per call; empty for the smallest batch that all bundles take.
        concurrencies: concurrent calls.

    Raises:
        click.UsageError: a batch size that a bundle can't be run with, or no setting that any can.
    """
    manifests = [loaded.engine.manifest for loaded in engines]
    for size, manifest in product(batch_sizes, manifests):
        if misfit := manifest.misfit(size):
            raise click.UsageError(f"--batch-size {size} doesn't fit: the {misfit} images")
    sizes = list(dict.fromkeys(batch_sizes)) or [int(np.lcm.reduce([manifest.batch_multiple for manifest in manifests]))]
    points = [
        Point(loaded, profile, size, calls)
        for loaded, own in zip(engines, profiles, strict=True)
        for profile, size, calls in product(own, sizes, dict.fromkeys(concurrencies))
        if loaded.engine.only_profile in (None, profile)
    ]
    if not points:
        only = ", ".join(loaded.engine.only_profile.name for loaded in engines if loaded.engine.only_profile)
        raise click.UsageError(f"none of these settings can be run: the graphs of this backend are fixed to {only}")
    return points


def recommendable(points: Sequence[Point]) -> list[int]:
    """Indices of the points that may be recommended: not those of bundles that the measured model is compared with."""
    return [index for index, point in enumerate(points) if not point.loaded.compared]


def without_accuracy(points: Sequence[Point]) -> list[str]:
    """A sentence on each bundle to compare with that returns no logits, and so is only timed."""
    outputs = {point.loaded.name: point.engine.manifest.output for point in points if point.loaded.compared}
    return [
        f"{name} returns {output}, so it is timed without accuracy."
        for name, output in outputs.items()
        if output != "logits"
    ]


def named_profiles(engine: Engine, names: Sequence[str], **changes: Any) -> list[Profile | None]:
    """The profiles of these names, each once; without names all stored ones, and [None] for a model without any.

    Args:
        engine: of the model.
        names: of profiles.
        changes: fields of a `Setting` that replace those of each profile.

    Raises:
        RoutingError: the model has no such profile.
    """
    wanted: Sequence[str | None] = names or list(engine.profiles) or [None]
    return list(dict.fromkeys(engine.setting(Setting(name, **changes)) for name in wanted))
