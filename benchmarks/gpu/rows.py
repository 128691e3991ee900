"""One shape, timed: every kernel beside its floor, its bar and its peers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from gpu import peers
from gpu.cases import make_gates
from gpu.device import Device
from gpu.exact import TORCH_TYPES
from gpu.floors import (
    KERNELS,
    ONE_IMAGE_BAR,
    bar_seconds,
    count_kept,
    floor_seconds,
    kernel_bytes,
    kernel_launches,
)
from gpu.library import Library
from gpu.problem import Problem
from gpu.shapes import SIZES, Shape, shape_for, shape_of_kernel
from gpu.timing import Call, Time, buffer_sets, capture, in_turns, measure_copy, measure_launch

OURS = "this kernel"
PEERS = ("torch", "torch, index_add", "torch.compile")
COMPILED_SHAPES = tuple(shape_for(groups, tokens, 8, 2, 1.05) for groups, tokens in SIZES)
"""Where torch.compile is a peer as well: it takes its time."""


@dataclass(frozen=True)
class Rates:
    """What the card does at best.

    Attributes:
        copy: bytes per second of a copy within its memory, read and written.
        launch: seconds of an empty kernel.
    """

    copy: float
    launch: float


def measure_rates(device: Device, kernels: Library, repeats: int) -> Rates:
    """Measures both."""
    rates = Rates(measure_copy(device, repeats), measure_launch(device, kernels.empty, repeats))
    device.release()
    return rates


def measure_shape(
    device: Device, kernels: Library, shape: Shape, rates: Rates, repeats: int, *, bar: bool
) -> Iterator[dict[str, Any]]:
    """A row for each kernel as soon as it is measured, ready for JSON; times in seconds.

    Args:
        device, kernels: the card and what runs on it.
        shape: the sizes.
        rates: the card's.
        repeats: rounds.
        bar: whether the bar is set at this shape.
    """
    for kernel in KERNELS:
        yield _measure_kernel(device, kernels, kernel, shape, rates, repeats, bar)
        device.release()


def _measure_kernel(
    device: Device, kernels: Library, kernel: str, shape: Shape, rates: Rates, repeats: int, bar: bool
) -> dict[str, Any]:
    own_shape = shape_of_kernel(kernel, shape)
    problems = _problems(device, kernels, kernel, own_shape)
    kept = count_kept(problems[0].slot.get())
    moved, launches = kernel_bytes(own_shape, kept)[kernel], kernel_launches(own_shape)[kernel]
    floor = floor_seconds(moved, rates.copy)
    graphs = {OURS: capture(device, [functools.partial(problem.run, kernel) for problem in problems])}
    notes: list[str] = []
    if shape.type != "fp16" or shape.is_one_image:  # elsewhere bfloat16 moves the same bytes
        for name, calls in _peers_of(kernel, own_shape, problems, compiled=shape in COMPILED_SHAPES).items():
            try:
                graphs[name] = capture(device, calls)
            except Exception as error:  # whatever torch and its compiler may say
                notes.append(f"{name}, {kernel}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}")
    times = in_turns(device, graphs, repeats)
    seconds = times[OURS].median
    limit = bar_of(shape, times, bar_seconds(floor, launches, rates.launch)) if bar else None
    return {
        "kernel": kernel,
        "shape": asdict(own_shape),
        "kept_pairs": kept.pairs,
        "kept_tokens": kept.tokens,
        "buffer_sets": len(problems),
        "bytes": moved,
        "launches": launches,
        "floor": floor,
        "bar": limit,
        "passes": limit is not None and seconds <= limit if bar else None,
        "time": asdict(times[OURS]),
        "bytes_per_second": moved / seconds,
        "of_copy": moved / seconds / rates.copy,
        "peers": {name: asdict(times[name]) for name in times if name != OURS},
        "notes": notes,
    }


def bar_of(shape: Shape, times: Mapping[str, Time], of_bytes: float) -> float | None:
    """The longest that a kernel may take: by its bytes, and for one image by torch; None where torch wasn't timed."""
    if not shape.is_one_image:
        return of_bytes
    return ONE_IMAGE_BAR * times[PEERS[0]].median if PEERS[0] in times else None


def _problems(device: Device, kernels: Library, kernel: str, shape: Shape) -> list[Problem]:
    """Sets of buffers with the same routing in other memory, larger than the cache together as far as that is needed."""
    source = torch.Generator().manual_seed(0)
    gates = make_gates("random", shape.groups, shape.tokens, shape.experts, source).to(TORCH_TYPES[shape.gate_type])
    count = buffer_sets(kernel_bytes(shape)[kernel], device.l2_bytes)
    problems = [Problem(device, kernels, shape) for _ in range(count)]
    for problem in problems:
        problem.gates.set(gates)
        if shape.hidden:
            problem.x.as_tensor().normal_()
            problem.out.as_tensor().normal_()
        problem.run("Route")
    device.synchronize()
    return problems


def _tensors(problem: Problem) -> Mapping[str, Any]:
    """A problem's tensors as peers take them: rows padded where an index may point behind them."""
    hidden = problem.shape.hidden
    return {
        "gates": problem.gates.as_tensor(),
        "slot": problem.slot.as_tensor(),
        "src": problem.src.as_tensor(),
        "weight": problem.weight.as_tensor(),
        "x": peers.padded(problem.x.as_tensor().view(-1, hidden)) if hidden else None,
        "out": peers.padded(problem.out.as_tensor().view(-1, hidden)) if hidden else None,
    }


def _peer_function(kernel: str, shape: Shape) -> Callable[[Mapping[str, Any]], Any]:
    """What the kernel does, in torch."""

    def route_dispatch(t: Mapping[str, Any]) -> Any:
        slot, weight, src = peers.route(t["gates"], shape)
        return slot, weight, peers.dispatch(t["x"], src)

    functions: dict[str, Callable[[Mapping[str, Any]], Any]] = {
        "Route": lambda t: peers.route(t["gates"], shape),
        "Dispatch": lambda t: peers.dispatch(t["x"], t["src"]),
        "RouteDispatch": route_dispatch,
        "Combine": lambda t: peers.combine_sum(t["out"], t["slot"], t["weight"]),
    }
    return functions[kernel]


def _calls(function: Callable[[Mapping[str, Any]], Any], tensors: Sequence[Mapping[str, Any]]) -> list[Call]:
    return [functools.partial(function, t) for t in tensors]


def _peers_of(kernel: str, shape: Shape, problems: Sequence[Problem], compiled: bool) -> dict[str, Sequence[Call]]:
    """The calls of every peer; a compiled one compiles when it is called first."""
    tensors = [_tensors(problem) for problem in problems]
    function = _peer_function(kernel, shape)
    found: dict[str, Sequence[Call]] = {PEERS[0]: _calls(function, tensors)}
    if kernel == "Combine":
        found[PEERS[1]] = _calls(lambda t: peers.combine_add(t["out"][:-1], t["slot"], t["weight"]), tensors)
    if compiled:
        found[PEERS[2]] = _calls(torch.compile(function, dynamic=False), tensors)
    return found
