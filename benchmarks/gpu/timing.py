"""How long kernels and their peers take on the card, without what the CPU needs to launch them.

The calls of one contender, each on other memory so that nothing is still in the cache from the call before, are one CUDA
graph. Contenders of a shape take turns; times are the graph's by CUDA events, over its calls.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gpu.device import Device

Call = Callable[[], object]

_CACHES = 2  # what calls use together, in sizes of the second-level cache
_MIN_CALLS = 16
_MAX_CALLS = 256
_WARM_UP = 3
_COPY_BYTES = 1 << 29
_EMPTY_CALLS = 256
_SEED = 0


@dataclass(frozen=True)
class Time:
    """Seconds of one call: median and quartiles over the repeats."""

    median: float
    lower: float
    upper: float
    repeats: int


def buffer_sets(bytes_per_set: int, l2_bytes: int) -> int:
    """How many sets of buffers are larger than the cache together, twice, as far as 256 sets are.

    Example:
        >>> buffer_sets(1 << 20, 50 << 20), buffer_sets(1 << 30, 50 << 20), buffer_sets(1, 50 << 20)
        (100, 2, 256)
    """
    return min(_MAX_CALLS, max(2, -(-_CACHES * l2_bytes // max(1, bytes_per_set))))


@dataclass(frozen=True)
class Graph:
    """Some calls, captured: what runs them, and how many they are."""

    replay: Callable[[], None]
    calls: int


def capture(device: Device, calls: Sequence[Call]) -> Graph:
    """One CUDA graph of all calls, over and over until they are enough to be timed."""
    many = list(calls) * -(-_MIN_CALLS // len(calls))

    def work() -> None:
        for call in many:
            call()

    return Graph(device.capture(work), len(many))


def in_turns(device: Device, graphs: Mapping[str, Graph], repeats: int) -> dict[str, Time]:
    """Times every graph once a round, in an order shuffled anew; returns the time of a call.

    Args:
        device: the card.
        graphs: each contender's, by name.
        repeats: rounds that are timed, after three to warm up.
    """
    order, names = random.Random(_SEED), list(graphs)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for index in range(_WARM_UP + repeats):
        for name in order.sample(names, len(names)):
            seconds = device.milliseconds(graphs[name].replay) / 1e3 / graphs[name].calls
            if index >= _WARM_UP:
                taken[name].append(seconds)
    return {name: summarize(seconds) for name, seconds in taken.items()}


def summarize(seconds: Sequence[float]) -> Time:
    """Median and quartiles.

    Example:
        >>> summarize([1, 2, 3])
        Time(median=2.0, lower=1.5, upper=2.5, repeats=3)
    """
    taken = list(seconds) if len(seconds) > 1 else [*seconds, *seconds]
    lower, median, upper = statistics.quantiles(taken, n=4, method="inclusive")
    return Time(median, lower, upper, len(seconds))


def measure_copy(device: Device, repeats: int) -> float:
    """Bytes per second, read and written, of copies within the card's memory."""
    import torch

    tensors = [torch.zeros(_COPY_BYTES, dtype=torch.uint8, device=device.torch_device) for _ in range(4)]
    calls = [lambda: tensors[1].copy_(tensors[0]), lambda: tensors[3].copy_(tensors[2])]
    return 2 * _COPY_BYTES / in_turns(device, {"copy": capture(device, calls)}, repeats)["copy"].median


def measure_launch(device: Device, empty: Callable[[int], None], repeats: int) -> float:
    """Seconds of a kernel that does nothing, timed as all others are."""
    calls = [lambda: empty(device.stream())] * _EMPTY_CALLS
    return in_turns(device, {"empty": capture(device, calls)}, repeats)["empty"].median
