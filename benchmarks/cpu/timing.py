"""Interleaved timing of calls, and the CPU time of this process and of others.

Interleaved timing runs in rounds. Each round makes every call once, in a random order.
"""

from __future__ import annotations

import os
import time
import timeit
from collections.abc import Callable, Hashable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Key = TypeVar("Key", bound=Hashable)

MAX_OTHERS_SHARE = 0.05
"""Largest share of the CPUs that other processes may use; above it, a measurement is void."""

_WARM_UP_ROUNDS = 2
_BYTES_READ = 2**31
PAUSE_SECONDS = 0.05  # pause before each call, because threads of the previous call may still spin
_TICKS = os.sysconf("SC_CLK_TCK")


def time_interleaved(calls: Mapping[Key, Callable[[], object]], rounds: int) -> dict[Key, Array]:
    """Time calls in interleaved rounds, and return each call's milliseconds as float64[rounds].

    Every round times each call once, so a disturbance affects all calls. Two warm-up rounds come first. If there are several
    calls, each call is made twice in a row, and only the second time is measured. The first time is needed because the
    previous, different call has filled the caches with its own data and may have left threads running.
    """
    order, keys = np.random.default_rng(0), list(calls)
    taken = np.empty((len(keys), _WARM_UP_ROUNDS + rounds))
    for index in range(taken.shape[1]):
        for chosen in order.permutation(len(keys)):
            time.sleep(PAUSE_SECONDS)
            if len(keys) > 1:
                calls[keys[chosen]]()
            start = time.perf_counter()
            calls[keys[chosen]]()
            taken[chosen, index] = 1e3 * (time.perf_counter() - start)
    return dict(zip(keys, taken[:, _WARM_UP_ROUNDS:], strict=True))


def time_per_image(
    calls: Mapping[Key, Callable[[], object]], rounds: int, images: int
) -> tuple[dict[Key, dict[str, float]], float]:
    """Time interleaved calls, each of which processes `images` images.

    Returns:
        The milliseconds per image of each call: `ms` is the median, and `lower` and `upper` are the quartiles.
        The share of the CPUs that other processes used, from 0 to 1.
    """
    with OthersWatch() as others:
        taken = time_interleaved(calls, rounds)
    quartiles = {key: (np.percentile(ms, [25, 50, 75]) / images).tolist() for key, ms in taken.items()}
    return {key: dict(zip(("lower", "ms", "upper"), ms, strict=True)) for key, ms in quartiles.items()}, others.share


class OthersWatch:
    """A measurement of the share of the CPUs that other processes use during a `with` block.

    After the block, the attribute `share` holds this share, from 0 to 1. This process and the processes in `children` are
    not counted.
    """

    share = 0.0

    def __init__(self, children: Iterable[int] = ()) -> None:
        self._own = [os.getpid(), *children]

    def __enter__(self) -> Self:
        self._start = self._seconds()
        return self

    def __exit__(self, *_: Any) -> None:
        busy, every, own = self._seconds() - self._start
        self.share = max(0.0, busy - own) / every if every > 0 else 0.0

    def _seconds(self) -> Array:
        """Return three CPU times in seconds: busy time, busy plus idle time, and the excluded processes' time.

        The busy time is the time that all processes used.
        """
        ticks = [int(field) for field in Path("/proc/stat").read_text().split(maxsplit=9)[1:9]]
        busy = sum(ticks) - ticks[3] - ticks[4]
        return np.array([busy / _TICKS, sum(ticks) / _TICKS, sum(map(cpu_seconds, self._own))])


def process_fields(process: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the process state onward, or None if the process has ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def cpu_seconds(process: int) -> float:
    """Return the CPU time of a process in seconds, or 0 if it has ended."""
    fields = process_fields(process)
    return (int(fields[11]) + int(fields[12])) / _TICKS if fields else 0.0


def memory_rate(threads: int) -> float:
    """Return the rate at which `threads` threads together read memory, in bytes per ms.

    The rate is the best of 5 measurements.
    """
    parts = np.array_split(np.ones(_BYTES_READ // 8, np.int64), threads)
    with ThreadPoolExecutor(threads) as pool:
        return _BYTES_READ / 1e3 / min(timeit.repeat(lambda: list(pool.map(np.max, parts)), number=1, repeat=5))
