"""One shape, timed: every kernel beside its floor, its bar and its peers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gpu import peers
from gpu.cases import make_gates
from gpu.device import Device
from gpu.exact import from_float32
from gpu.floors import KERNELS, bar_seconds, count_kept, floor_seconds, kernel_bytes, kernel_launches
from gpu.library import Library
from gpu.problem import Problem
from gpu.shapes import SIZES, Shape, Type, shape_for, shape_of_kernel
from gpu.timing import Call, buffer_sets, capture, in_turns, measure_copy, measure_launch

OURS = "this kernel"
PEERS = ("torch", "torch, index_add", "torch.compile")
COMPILED_SHAPES = tuple(shape_for(groups, tokens, 8, 2, 1.05) for groups, tokens in SIZES)
"""Where torch.compile is a peer as well: it takes its time."""


@dataclass(frozen=True)
class Rates:
    """What the card does at best.

    Attributes:
        copy: bytes per second of a copy within its memory, read and written.
        floor: bytes per second that floors are taken from.
        launch: seconds of an empty kernel.
    """

    copy: float
    floor: float
    launch: float


def measure_rates(device: Device, kernels: Library, repeats: int, floor_rate: Callable[[str, float], float]) -> Rates:
    """Measures copy and launch; `floor_rate` says, of the card's name and the copy, what floors are taken from."""
    copy = measure_copy(device, repeats)
    launch = measure_launch(device, kernels.empty, repeats)
    device.release()
    return Rates(copy, floor_rate(device.name, copy), launch)


def measure_shape(
    device: Device, kernels: Library, shape: Shape, rates: Rates, repeats: int, *, bar: bool, with_peers: bool
) -> list[dict[str, Any]]:
    """A row for each kernel, ready for JSON; times in seconds.

    Args:
        device, kernels: the card and what runs on it.
        shape: the sizes.
        rates: the card's.
        repeats: rounds.
        bar: whether the bar is set at this shape.
        with_peers: time torch beside the kernels.
    """
    rows = []
    for kernel in KERNELS:
        rows.append(_measure_kernel(device, kernels, kernel, shape, rates, repeats, bar, with_peers))
        device.release()
    return rows


def _measure_kernel(
    device: Device, kernels: Library, kernel: str, shape: Shape, rates: Rates, repeats: int, bar: bool, with_peers: bool
) -> dict[str, Any]:
    own_shape = shape_of_kernel(kernel, shape)
    problems = _problems(device, kernels, kernel, own_shape)
    kept = count_kept(problems[0].slot.get())
    moved, launches = kernel_bytes(own_shape, kept)[kernel], kernel_launches(own_shape)[kernel]
    floor = floor_seconds(moved, rates.floor)
    limit = bar_seconds(floor, launches, rates.launch)
    graphs = {OURS: capture(device, [functools.partial(problem.run, kernel) for problem in problems])}
    notes: list[str] = []
    if with_peers:
        for name, calls in _peers_of(kernel, own_shape, problems, compiled=shape in COMPILED_SHAPES).items():
            try:
                graphs[name] = capture(device, calls)
            except Exception as error:  # whatever torch and its compiler may say
                notes.append(f"{name}, {kernel}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}")
    times = in_turns(device, graphs, repeats)
    seconds = times[OURS].median
    return {
        "kernel": kernel,
        "shape": asdict(own_shape),
        "kept_pairs": kept.pairs,
        "kept_tokens": kept.tokens,
        "buffer_sets": len(problems),
        "bytes": moved,
        "launches": launches,
        "floor": floor,
        "bar": limit if bar else None,
        "passes": seconds <= limit if bar else None,
        "time": asdict(times[OURS]),
        "bytes_per_second": moved / seconds,
        "of_copy": moved / seconds / rates.copy,
        "peers": {name: asdict(times[name]) for name in times if name != OURS},
        "notes": notes,
    }


def _problems(device: Device, kernels: Library, kernel: str, shape: Shape) -> list[Problem]:
    """Sets of buffers with the same routing in other memory, larger than the cache together as far as that is needed."""
    random = np.random.default_rng(0)
    gates = from_float32(make_gates("random", shape.groups, shape.tokens, shape.experts, random), shape.gate_type)
    count = buffer_sets(kernel_bytes(shape)[kernel], device.l2_bytes)
    problems = [Problem(device, kernels, shape) for _ in range(count)]
    for problem in problems:
        problem.gates.set(gates)
        if shape.hidden:
            problem.x.as_tensor(_torch_type(shape.type)).normal_()
            problem.out.as_tensor(_torch_type(shape.type)).normal_()
        problem.run("Route")
    device.synchronize()
    return problems


def _torch_type(type: Type) -> Any:
    import torch

    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[type]


def _tensors(problem: Problem) -> Mapping[str, Any]:
    """A problem's tensors as peers take them: rows padded where an index may point behind them."""
    import torch

    shape = problem.shape
    rows = -1, max(1, shape.hidden)
    token, gate = _torch_type(shape.type), _torch_type(shape.gate_type)
    return {
        "gates": problem.gates.as_tensor(gate),
        "slot": problem.slot.as_tensor(torch.int32),
        "src": problem.src.as_tensor(torch.int32),
        "weight": problem.weight.as_tensor(gate),
        "x": peers.padded(problem.x.as_tensor(token).view(rows)) if shape.hidden else None,
        "out": peers.padded(problem.out.as_tensor(token).view(rows)) if shape.hidden else None,
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
    import torch

    tensors = [_tensors(problem) for problem in problems]
    function = _peer_function(kernel, shape)
    found: dict[str, Sequence[Call]] = {PEERS[0]: _calls(function, tensors)}
    if kernel == "Combine":
        found[PEERS[1]] = _calls(lambda t: peers.combine_add(t["out"][:-1], t["slot"], t["weight"]), tensors)
    if compiled:
        found[PEERS[2]] = _calls(torch.compile(function, dynamic=False), tensors)
    return found
