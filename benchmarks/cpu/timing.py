"""Taking turns: every call once a round, in an order shuffled anew."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

_WARM_UP_ROUNDS = 2
_PAUSE_SECONDS = 0.05  # worker threads of the last call spin on for a while, and would disturb the next
_SEED = 0


@dataclass(frozen=True)
class Times:
    """What the calls of one key took, in milliseconds: the best, median and quartiles."""

    best: float
    median: float
    lower: float
    upper: float
    rounds: int


def time_in_turns(calls: Mapping[Any, Callable[[], object]], rounds: int) -> dict[Any, Times]:
    """Times all calls round robin, after two rounds of warm-up, so that a disturbance meets all of them.

    Args:
        calls: what to time, by any key.
        rounds: how often each is timed.
    """
    order = np.random.default_rng(_SEED)
    keys = list(calls)
    taken: dict[Any, list[float]] = {key: [] for key in keys}
    for index in range(_WARM_UP_ROUNDS + rounds):
        for chosen in order.permutation(len(keys)):
            key = keys[chosen]
            time.sleep(_PAUSE_SECONDS)
            seconds = seconds_of(calls[key])
            if index >= _WARM_UP_ROUNDS:
                taken[key].append(seconds)
    return {key: summarize(seconds) for key, seconds in taken.items()}


def seconds_of(call: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def summarize(seconds: list[float]) -> Times:
    """Median and quartiles of some calls.

    Example:
        >>> summarize([0.001, 0.002, 0.003])
        Times(best=1.0, median=2.0, lower=1.5, upper=2.5, rounds=3)
    """
    best, lower, median, upper = (float(value) for value in np.percentile(np.asarray(seconds) * 1e3, [0, 25, 50, 75]))
    return Times(best, median, lower, upper, len(seconds))
