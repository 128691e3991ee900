"""Arrival traces: when requests come, as seconds from the start; the same seed gives the same trace."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

BURST, CALM = 2.0, 4.0  # seconds of a burst, and of the time between two
BURST_OVER_CALM = 4.0  # times as many requests come in a burst
NIGHT_OVER_NOON = 0.2  # requests of the quietest hour of a day over those of the busiest


def poisson(rate: float, seconds: float, seed: int) -> Array:
    """f64[N]: a Poisson process of `rate` requests a second.

    Example:
        >>> trace = poisson(100.0, 10.0, seed=1)
        >>> len(trace), bool((trace[1:] >= trace[:-1]).all()), float(trace[-1]) < 10
        (1001, True, True)
    """
    return _thinned(lambda _: rate, rate, seconds, seed)


def bursts(rate: float, seconds: float, seed: int) -> Array:
    """f64[N]: bursts of `BURST` seconds at `rate` requests a second, and calm seconds between them."""

    def at(time: float) -> float:
        return rate if time % (BURST + CALM) >= CALM else rate / BURST_OVER_CALM

    return _thinned(at, rate, seconds, seed)


def burst_starts(seconds: float) -> list[float]:
    """When the bursts of `bursts` begin."""
    return [float(start) for start in np.arange(CALM, seconds, BURST + CALM)]


def day(rate: float, seconds: float, seed: int) -> Array:
    """f64[N]: the curve of a day, from midnight to midnight, in so many seconds; `rate` requests a second come at noon."""

    def at(time: float) -> float:
        hour = 0.5 - 0.5 * math.cos(2 * math.pi * time / seconds)
        return rate * (NIGHT_OVER_NOON + (1 - NIGHT_OVER_NOON) * hour)

    return _thinned(at, rate, seconds, seed)


TRACES: dict[str, Callable[[float, float, int], Array]] = {"poisson": poisson, "bursts": bursts, "day": day}


def _thinned(rate_at: Callable[[float], float], most: float, seconds: float, seed: int) -> Array:
    """A Poisson process whose rate changes: one of the largest rate, of which each request stays by its share."""
    generator = np.random.default_rng(seed)
    count = generator.poisson(most * seconds)
    times = np.sort(generator.uniform(0.0, seconds, count))
    stays = generator.uniform(0.0, most, count) < [rate_at(float(time)) for time in times]
    return times[stays]
