"""The points of a measurement: every profile on every backend at every batch size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from vmoe_runtime import Engine, Routing, RoutingError
from vmoe_runtime.command_line import UsageError
from vmoe_runtime.profiles import Profile

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Point:
    """One setting that is measured.

    Attributes:
        engine: the loaded bundle on one backend; points share it.
        profile: the routing setting; None for a dense model.
        batch_size: images per call.
    """

    engine: Engine
    profile: Profile | None
    batch_size: int

    def logits(self, batch: Array) -> Array:
        """float32[N, classes] of a batch of `batch_size` images."""
        return self.engine(batch, self._profile_name)

    def routing(self, batch: Array) -> dict[str, Routing]:
        """Where each MoE layer sends the tokens of a batch; empty for a dense model."""
        return self.engine.routing(batch, self._profile_name)

    @property
    def _profile_name(self) -> str | None:
        return None if self.profile is None else self.profile.name


def plan_points(engines: Sequence[Engine], profile_names: Sequence[str], batch_sizes: Sequence[int]) -> list[Point]:
    """Every combination of what was asked for, each once.

    Args:
        engines: one per backend, all of the same bundle, or several where each runs only one profile.
        profile_names: stored or systematic names; empty for all stored profiles.
        batch_sizes: images per call; empty for the smallest batch that the bundle takes.

    Raises:
        UsageError: a profile or a batch size that the bundle can't be run with.
    """
    manifest = engines[0].manifest
    try:
        asked = [engines[0].setting(name) for name in profile_names]
    except RoutingError as error:
        raise UsageError(f"--profile: {error}") from None
    # A dense model has one setting: none.
    profiles = list(dict.fromkeys(asked)) or list(manifest.profiles.values()) or [None]
    multiple = manifest.batch_multiple
    for size in batch_sizes:
        if size % multiple:
            raise UsageError(
                f"--batch-size {size} doesn't fit: the bundle routes in groups ({manifest.group}) "
                f"that need a multiple of {multiple} images"
            )
    sizes = list(dict.fromkeys(batch_sizes)) or [multiple]
    return [
        Point(engine, profile, size)
        for profile, engine, size in product(profiles, engines, sizes)
        if engine.only_profile in (None, profile)
    ]
