"""A cell of the benchmark: one model, batch size and number of threads, and what a model loaded for it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cpu.models import Model, Setting
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing_kinds import TopKRules

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Cell:
    """What is timed together: one model, batch size and number of threads, at all settings.

    Attributes:
        profiles: the places per expert of each setting.
        folder: where graphs are written.
    """

    model: Model
    batch: int
    threads: int
    profiles: Mapping[Setting, Profile]
    folder: Path

    @property
    def key(self) -> dict[str, Any]:
        """The cell's name, batch size and number of threads, as they stand in JSON."""
        return {"model": self.model.name, "batch": self.batch, "threads": self.threads}


@dataclass(frozen=True)
class LoadedRun:
    """A model loaded in a runtime.

    Attributes:
        call: logits float32[N, classes] of images float32[N,H,W,C] at a setting, None for a dense model.
        placed: the expert i32[G,S,K] of each MoE layer at a setting, -1 where a pair was dropped; None where the runtime
            doesn't tell.
        description: runtime, version and what it uses.
    """

    call: Callable[[Array, Setting | None], Array]
    placed: Callable[[Array, Setting], list[Array]] | None
    description: str


def make_cell(model: Model, batch: int, threads: int, settings: Sequence[Setting], folder: Path) -> Cell:
    """A cell with the places per expert that the bundle's own rules give."""
    rules = Bundle.open(model.sparse, verify=False).manifest.rules
    assert isinstance(rules, TopKRules)
    return Cell(model, batch, threads, {s: rules.profile(s.capacity_ratio, s.k, bpr=True) for s in settings}, folder)
