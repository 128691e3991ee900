"""Arrival traces: when requests come, as seconds from the start; the same seed gives the same trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

BURST, CALM = 2.0, 4.0  # seconds of a burst, and of the time between two
BURST_OVER_CALM = 4.0  # times as many requests come in a burst
NIGHT_OVER_NOON = 0.2  # requests of the quietest hour of a day over those of the busiest

TRACES: dict[str, Callable[[Array, float], Array]] = {
    "poisson": lambda times, _: np.ones_like(times),
    "bursts": lambda times, _: np.where(times % (BURST + CALM) >= CALM, 1, 1 / BURST_OVER_CALM),
    "day": lambda times, seconds: (
        NIGHT_OVER_NOON + (1 - NIGHT_OVER_NOON) * (0.5 - 0.5 * np.cos(2 * np.pi * times / seconds))
    ),
}
"""The rate at f64[N] seconds of a trace of so many seconds, as a share of the highest; a day begins at midnight."""


def arrivals(trace: str, rate: float, seconds: float, seed: int) -> Array:
    """f64[N]: a Poisson process of at most `rate` requests a second.

    Example:
        >>> trace = arrivals("poisson", 100.0, 10.0, seed=1)
        >>> len(trace), bool((trace[1:] >= trace[:-1]).all()), float(trace[-1]) < 10
        (1001, True, True)
    """
    generator = np.random.default_rng(seed)
    times = np.sort(generator.uniform(0.0, seconds, generator.poisson(rate * seconds)))
    return times[generator.uniform(0.0, 1.0, len(times)) < TRACES[trace](times, seconds)]


def burst_starts(seconds: float) -> list[float]:
    """When the bursts of a trace begin."""
    return [float(start) for start in np.arange(CALM, seconds, BURST + CALM)]
