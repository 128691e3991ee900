"""Measure the GPU time of the kernels, and of torch for the same work. The launch time on the CPU is excluded.

The kernel and torch are called contenders. All calls of a contender are captured in one CUDA graph. Successive calls use
different memory, so that a call does not find its data in the cache. At each shape, the contenders' graphs run alternately.
CUDA events measure how long a graph takes. This time divided by the number of calls is the time per call.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from on_gpu.check import first_line
from on_gpu.device import Device
from on_gpu.library import KERNELS, Library, kernel_launches
from on_gpu.shape import Shape

from gpu import in_torch
from gpu.floors import Kept, count_kept, kernel_bytes
from gpu.problem import Problem
from gpu.shapes import shape_of_kernel

Call = Callable[[], object]

_CACHES = 2  # memory used by all calls together, as a multiple of the L2 cache size
_MIN_CALLS, _MAX_CALLS, _EMPTY_CALLS = 16, 256, 256
_WARM_UP = 3
_COPY_BYTES = 1 << 29


class Time(NamedTuple):
    """Time of one call in seconds: the median and the quartiles over all repeats."""

    lower: float
    median: float
    upper: float


class Rates(NamedTuple):
    """The best rates that the GPU reaches.

    Attributes:
        copy: rate of a copy within the GPU's memory, in bytes per second. Each byte counts twice, for the read and the
            write.
        launch: time of an empty kernel, in seconds.
    """

    copy: float
    launch: float


def buffer_sets(bytes_per_set: int, l2_bytes: int) -> int:
    """Return how many sets of buffers are needed to fill twice the L2 cache. The number is between 2 and 256.

    Examples:
        >>> buffer_sets(1 << 20, 50 << 20), buffer_sets(1 << 30, 50 << 20), buffer_sets(1, 50 << 20)
        (100, 2, 256)
    """
    return min(_MAX_CALLS, max(2, -(-_CACHES * l2_bytes // max(1, bytes_per_set))))


def time_calls(device: Device, contenders: Mapping[str, Sequence[Call]], repeats: int) -> tuple[dict[str, Time], list[str]]:
    """Time the calls of each contender on the GPU.

    All calls of a contender form one CUDA graph. Each round runs every graph once, in a random order. Three warm-up rounds
    come first.

    Returns:
        The time per call of each contender, in seconds.
        A note for each contender that can't be captured in a graph.
    """
    graphs, notes = {}, []
    for name, calls in contenders.items():
        many = list(calls) * -(-_MIN_CALLS // len(calls))

        def work(many: Sequence[Call] = many) -> None:
            for call in many:  # don't keep outputs, so that the next call can use their memory
                call()

        try:
            graphs[name] = device.capture(work), len(many)
        except Exception as error:  # torch may raise anything
            if name == "kernel":
                raise
            notes.append(f"{name}: {type(error).__name__}: {first_line(error)}")
    order, taken = random.Random(0), {name: list[float]() for name in graphs}
    for _ in range(_WARM_UP + repeats):
        for name in order.sample(list(graphs), len(graphs)):
            replay, calls_of_it = graphs[name]
            taken[name].append(device.milliseconds(replay) / 1e3 / calls_of_it)
    return {name: summarize(seconds[_WARM_UP:]) for name, seconds in taken.items()}, notes


def summarize(seconds: Sequence[float]) -> Time:
    """Return the quartiles and the median.

    Examples:
        >>> summarize([1, 2, 3])
        Time(lower=1.5, median=2.0, upper=2.5)
    """
    return Time(*statistics.quantiles(seconds if len(seconds) > 1 else 2 * seconds, n=4, method="inclusive"))


def measure_rates(device: Device, kernels: Library, repeats: int) -> Rates:
    """Time a copy and an empty kernel with the method that is used for the benchmark's kernels."""
    tensors = [torch.zeros(_COPY_BYTES, dtype=torch.uint8, device=device.torch_device) for _ in range(4)]
    copies = [partial(tensors[1].copy_, tensors[0]), partial(tensors[3].copy_, tensors[2])]
    empty = [lambda: kernels.call("empty", device.stream())] * _EMPTY_CALLS
    seconds = [time_calls(device, {"kernel": calls}, repeats)[0]["kernel"].median for calls in (copies, empty)]
    del tensors, copies
    device.release()
    return Rates(2 * _COPY_BYTES / seconds[0], seconds[1])


def measure_shape(device: Device, kernels: Library, shape: Shape, rates: Rates, repeats: int) -> Iterator[dict[str, Any]]:
    """Time each kernel at `shape`, and yield its table row as soon as it is measured. All times are in seconds."""
    for kernel in KERNELS:
        yield _measure_kernel(device, kernels, kernel, shape_of_kernel(kernel, shape), rates, repeats)
        device.release()


def _measure_kernel(
    device: Device, kernels: Library, kernel: str, shape: Shape, rates: Rates, repeats: int
) -> dict[str, Any]:
    sets = buffer_sets(kernel_bytes(shape, Kept(shape.pairs, shape.all_tokens))[kernel], device.l2_bytes)
    problems = [_routed_problem(device, kernels, shape) for _ in range(sets)]
    kept = count_kept(problems[0].tensors["slot"])
    moved, launches = kernel_bytes(shape, kept)[kernel], kernel_launches(shape)[kernel]
    contenders: dict[str, Sequence[Call]] = {"kernel": [partial(problem.run, kernel) for problem in problems]}
    if shape.type != "fp16":  # torch is as fast in fp16 as in bf16, because their elements have the same size
        contenders["torch"] = [partial(in_torch.run, kernel, shape, in_torch.peer_tensors(p)) for p in problems]
    times, notes = time_calls(device, contenders, repeats)
    own, peer, floor = times["kernel"], times.get("torch"), moved / rates.copy
    return {
        **{"kernel": kernel, "shape": shape, "kept": kept, "buffer_sets": sets},
        **{"bytes": moved, "launches": launches, "floor": floor, "time": own, "of_copy": floor / own.median, "torch": peer},
        "notes": [f"{kernel} at {shape}: {note}" for note in notes],
    }


def _routed_problem(device: Device, kernels: Library, shape: Shape) -> Problem:
    """Return a `Problem` whose tensors are in newly allocated memory.

    All problems of the same shape have the same routing.
    """
    problem, source = Problem(device, kernels, shape), torch.Generator().manual_seed(0)
    gates = torch.randn(shape.groups, shape.tokens, shape.experts, generator=source).softmax(dim=-1)
    problem.tensors["gates"].copy_(gates)
    for name in ("x", "out"):
        problem.tensors[name].normal_()
    problem.run("route")
    device.synchronize()
    return problem
