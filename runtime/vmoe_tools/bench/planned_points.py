"""The points of a measurement.

A point is a combination of bundle, profile, backend, batch size and number of concurrent calls.
"""

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
    """One setting to measure.

    Attributes:
        loaded: the bundle on one backend; several points may share it.
        profile: the routing setting; None for a dense model or a Soft MoE.
        batch_size: images per call.
        concurrency: number of concurrent calls.
    """

    loaded: LoadedBundle
    profile: Profile | None
    batch_size: int
    concurrency: int = 1

    @property
    def engine(self) -> Engine:
        """The engine of the loaded bundle."""
        return self.loaded.engine

    @property
    def takes(self) -> tuple[int, InputSpec]:
        """The batch size and the input format of the point's graph."""
        return self.batch_size, self.engine.manifest.input

    def logits(self, batch: Array) -> Array:
        """Return the logits of a batch, float32[batch_size, classes]. If the graph has no logits, return its main output."""
        return self.engine.outputs(batch, self.profile)[self.engine.manifest.output]


def plan_points(
    engines: Sequence[LoadedBundle],
    profiles: Sequence[Sequence[Profile | None]],
    batch_sizes: Sequence[int],
    concurrencies: Sequence[int] = (1,),
) -> list[Point]:
    """Return a point for each requested combination of engine, profile, batch size and number of concurrent calls.

    Args:
        engines: one engine per bundle and backend. If the backend fixes an engine to one profile, one engine per bundle,
            backend and profile.
        profiles: for each engine, the profiles at which to measure it.
        batch_sizes: images per call; empty for the smallest batch that all bundles accept.
        concurrencies: numbers of concurrent calls.

    Raises:
        click.UsageError: a bundle can't run one of the batch sizes, or no engine can run any of the profiles.
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
    """Return the indices of the points that may be recommended: all points except those of compared models."""
    return [index for index, point in enumerate(points) if not point.loaded.compared]


def without_accuracy(points: Sequence[Point]) -> list[str]:
    """Return one sentence for each compared bundle that is only timed, because it returns no logits."""
    outputs = {point.loaded.name: point.engine.manifest.output for point in points if point.loaded.compared}
    return [
        f"{name} returns {output}, so it is timed without accuracy."
        for name, output in outputs.items()
        if output != "logits"
    ]


def named_profiles(engine: Engine, names: Sequence[str], **changes: Any) -> list[Profile | None]:
    """Return the profiles with these names, without duplicates.

    Args:
        engine: an engine of the model.
        names: names of profiles; empty for all stored profiles.
        changes: fields of a `Setting`, with the values that replace those of each profile.

    Returns:
        The profiles; [None] for a model that has no profiles.

    Raises:
        RoutingError: the model has no profile with one of the names, or refuses a value.
    """
    wanted: Sequence[str | None] = names or list(engine.profiles) or [None]
    return list(dict.fromkeys(engine.setting(Setting(name, **changes)) for name in wanted))
