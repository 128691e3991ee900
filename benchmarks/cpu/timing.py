"""Interleaved timing: every call once a round, in an order shuffled anew; and whether other processes had a share."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

_WARM_UP_ROUNDS = 2
_PAUSE_SECONDS = 0.05  # worker threads of the last call spin on for a while, and would disturb the next
_STAT = Path("/proc/stat")
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Times:
    """What calls took, in milliseconds: the best, median and quartiles."""

    best: float
    median: float
    lower: float
    upper: float
    rounds: int


def time_interleaved(calls: Mapping[Key, Callable[[], object]], rounds: int) -> dict[Key, Times]:
    """Times all calls round robin, after two rounds of warm-up, so that a disturbance meets all of them.

    A call that returns a float says by it how many seconds count.
    """
    order, keys = np.random.default_rng(0), list(calls)
    taken: dict[Key, list[float]] = {key: [] for key in keys}
    for index in range(_WARM_UP_ROUNDS + rounds):
        for chosen in order.permutation(len(keys)):
            time.sleep(_PAUSE_SECONDS)
            start = time.perf_counter()
            answer = calls[keys[chosen]]()
            seconds = answer if isinstance(answer, float) else time.perf_counter() - start
            if index >= _WARM_UP_ROUNDS:
                taken[keys[chosen]].append(seconds)
    return {key: summarize(seconds) for key, seconds in taken.items()}


def summarize(seconds: list[float]) -> Times:
    """Median and quartiles of some calls.

    Example:
        >>> summarize([0.001, 0.002, 0.003])
        Times(best=1.0, median=2.0, lower=1.5, upper=2.5, rounds=3)
    """
    best, lower, median, upper = (float(value) for value in np.percentile(np.asarray(seconds) * 1e3, [0, 25, 50, 75]))
    return Times(best, median, lower, upper, len(seconds))


class OthersWatch:
    """Between entering and leaving, what others took of the CPUs; `share` is 0 to 1, or None where the system won't tell.

    `children` are running processes that are no others.
    """

    def __init__(self, children: Sequence[int] = ()) -> None:
        self.share: float | None = None
        self._children = children

    def __enter__(self) -> Self:
        self._start = _seconds(self._children)
        return self

    def __exit__(self, *_: Any) -> None:
        if self._start is None or (end := _seconds(self._children)) is None:
            return
        busy, every, own = (after - before for before, after in zip(self._start, end, strict=True))
        self.share = max(0.0, busy - own) / every if every > 0 else 0.0


def _seconds(children: Sequence[int]) -> tuple[float, float, float] | None:
    """CPU time of all processes, of all processes and idling, and of this process and its children, in seconds."""
    if not _STAT.exists():
        return None
    ticks, per_second = [int(field) for field in _STAT.read_text().splitlines()[0].split()[1:9]], os.sysconf("SC_CLK_TCK")
    own = os.times()
    of_children = sum(map(_ticks, children)) / per_second
    return (sum(ticks) - ticks[3] - ticks[4]) / per_second, sum(ticks) / per_second, own.user + own.system + of_children


def _ticks(process: int) -> int:
    """CPU time of a process, in clock ticks; 0 where it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])
