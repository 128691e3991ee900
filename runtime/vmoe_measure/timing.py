"""Times several calls in turn, and computes their speed from the times."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

MINIMUM_ROUNDS = 3
_WARM_UP_ROUNDS = 2
_DEVIATIONS = 1.96  # half-width of a normal distribution's 95 % confidence interval, in standard deviations


@dataclass(frozen=True)
class Speed:
    """The speed of a call.

    Attributes:
        images_per_second: images per call divided by the median call time. A few delayed calls don't change the median.
        p50_ms, p90_ms, p99_ms: the median, 90th and 99th percentile of the call time, in milliseconds.
        p50_low_ms, p50_high_ms: the 95 % confidence interval of the median. With fewer than 6 calls, the shortest and the
            longest call time.
    """

    images_per_second: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p50_low_ms: float
    p50_high_ms: float


def summarize(seconds: Sequence[float], images_per_call: int) -> Speed:
    """Compute the speed from measured times.

    Percentiles are interpolated linearly between neighbouring samples, as numpy does by default. With fewer than 100 calls,
    p99 says little more than the maximum.

    The confidence interval of the median is computed from order statistics. This works for any distribution of the times,
    because the number of calls below the true median always has a binomial distribution.

    Args:
        seconds: time of each call; at least one.
        images_per_call: batch size.

    Examples:
        >>> summarize([1.0, 3.0, 2.0], images_per_call=16)
        Speed(images_per_second=8.0, p50_ms=2000.0, p90_ms=2800.0, p99_ms=2980.0, p50_low_ms=1000.0, p50_high_ms=3000.0)
    """
    ordered = np.sort(np.asarray(seconds, np.float64)) * 1e3
    p50, p90, p99 = (float(ms) for ms in np.percentile(ordered, [50, 90, 99]))
    below = max(math.floor((len(ordered) - 1 - _DEVIATIONS * math.sqrt(len(ordered))) / 2), 0)
    return Speed(images_per_call * 1e3 / p50, p50, p90, p99, float(ordered[below]), float(ordered[-1 - below]))


def call_order(num_calls: int, round_index: int) -> list[int]:
    """Return the order of the calls in one round. Each call occurs once.

    Each round begins one call later than the previous round, so that each call is first in some rounds.

    Examples:
        >>> [call_order(3, index) for index in range(4)]
        [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]
    """
    return [(round_index + position) % num_calls for position in range(num_calls)]


def time_interleaved(
    calls: Sequence[Callable[[], object]],
    duration: float,
    clock: Callable[[], float] = time.perf_counter,
    after_round: Callable[[float], None] = lambda share: None,
    into: list[list[float]] | None = None,
    settle: Sequence[Callable[[], object]] = (),
) -> list[list[float]]:
    """Time every call once per round, so that a slow phase of the machine affects all calls equally.

    Two warm-up rounds come first and are not counted. A round is never cut short, so all calls are timed equally often.

    Args:
        calls: the functions to time.
        duration: seconds to measure after the warm-up. At least `MINIMUM_ROUNDS` rounds are run, however long they take.
        clock: returns seconds.
        after_round: called after each round, including warm-up. Its argument is the share of the whole run that the round
            took, between 0 and 1.
        into: a list for each call. The call's times in seconds are appended to it as they are measured, so that the caller
            can still read them after an interruption. None for new lists.
        settle: for each call, a function that makes an untimed call of the same engine. Calls of one engine share the
            function. It runs before a timed call if the previous call used another engine, whose data are still in the
            caches and whose threads may still spin. Empty for no untimed calls.

    Returns:
        A list for each call, with the call's time in seconds in each round.
    """
    first = begin = clock()
    done = 0.0

    def tell(rounds: int) -> None:
        nonlocal done
        past, whole = clock() - first, begin - first + duration
        before, done = done, min(rounds / (_WARM_UP_ROUNDS + MINIMUM_ROUNDS), past / whole if whole else 1.0, 1.0)
        after_round(done - before)

    for index in range(_WARM_UP_ROUNDS):
        for chosen in call_order(len(calls), index):
            calls[chosen]()
        begin = clock()
        tell(index + 1)
    seconds: list[list[float]] = [[] for _ in calls] if into is None else into
    settled: object = None
    end = begin + duration
    rounds = 0
    while rounds < MINIMUM_ROUNDS or clock() < end:
        for chosen in call_order(len(calls), rounds):
            if settle and settle[chosen] is not settled:
                settled = settle[chosen]
                settled()
            start = clock()
            calls[chosen]()
            seconds[chosen].append(clock() - start)
        rounds += 1
        tell(_WARM_UP_ROUNDS + rounds)
    return seconds
