"""Whether the kernels give what they must, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from cpu.errors import BenchmarkError

from gpu import exact
from gpu.cases import Case, Inputs, make_inputs
from gpu.device import Device
from gpu.exact import Array
from gpu.floors import KERNELS, kernel_launches
from gpu.library import Library
from gpu.problem import Problem
from gpu.shapes import TYPES, Shape

DEVICE_ERRORS = (BenchmarkError, RuntimeError)
"""What a call on the card may raise; torch's own errors are RuntimeErrors."""

_REPEATS = 3
_STREAMS = 8


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what.
        count: how often.
        failures: a sentence for each time that it was not as it must be.
    """

    name: str
    count: int
    failures: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def first_line(error: Exception) -> str:
    """What an error says, without the advice that torch adds."""
    return str(error).strip().partition("\n")[0]


@dataclass(frozen=True)
class Expected:
    """What the kernels must give; `y` is of the case's own `out`."""

    slot: Array
    weight: Array
    src: Array
    buf: Array
    y: Array


def expected_of(case: Case, inputs: Inputs) -> Expected:
    """By numpy."""
    shape = case.shape
    slot, weight, src = exact.route(inputs.gates, shape.gate_type, shape.capacity, shape.choices, shape.bpr)
    y = exact.combine(inputs.out, shape.type, slot, weight, shape.gate_type)
    return Expected(slot, weight, src, exact.dispatch(inputs.x, src), y)


def set_inputs(problem: Problem, inputs: Inputs) -> None:
    """Copies a case's inputs to the card, and spoils everything that kernels write."""
    problem.gates.set(inputs.gates)
    problem.x.set(inputs.x)
    problem.out.set(inputs.out)
    for array in problem.outputs:
        array.spoil()


def differences(problem: Problem, expected: Expected, names: Sequence[str]) -> list[str]:
    """What of a problem's outputs is not as expected, in words."""
    found = []
    for name in names:
        got, wanted = getattr(problem, name).get(), getattr(expected, name)
        wrong = ~exact.same_bits(got, wanted)
        if name == "y":  # a sum that is no number has no bits to agree on
            type = problem.shape.type
            wrong &= ~(np.isnan(exact.to_float32(got, type)) & np.isnan(exact.to_float32(wanted, type)))
        if wrong.any():
            where = tuple(int(index) for index in np.argwhere(wrong)[0])
            found.append(
                f"{name} differs in {int(wrong.sum())} of {wrong.size} places, first at {where}: "
                f"{got[where]} instead of {wanted[where]}"
            )
        if not getattr(problem, name).guards_hold():
            found.append(f"{name} was written past its ends")
    if not problem.workspace.guards_hold():
        found.append("the workspace was written past its ends")
    return found


def run_separately(problem: Problem) -> None:
    """Route, Dispatch and Combine, one after the other."""
    for kernel in ("Route", "Dispatch", "Combine"):
        problem.run(kernel)


def check_case(device: Device, kernels: Library, case: Case) -> list[str]:
    """Runs all kernels on a case, several times; returns what was wrong."""
    inputs = make_inputs(case)
    expected = expected_of(case, inputs)
    problem = Problem(device, kernels, case.shape, case.offset)
    found: list[str] = []
    for _ in range(_REPEATS):
        set_inputs(problem, inputs)
        run_separately(problem)
        device.synchronize()
        found += differences(problem, expected, ("slot", "weight", "src", "buf", "y"))
    set_inputs(problem, inputs)
    problem.run("RouteDispatch")
    device.synchronize()
    found += [f"RouteDispatch: {what}" for what in differences(problem, expected, ("slot", "weight", "buf"))]
    return [f"{case}: {what}" for what in dict.fromkeys(found)]


def check_cases(device: Device, kernels: Library, name: str, cases: Iterable[Case]) -> Check:
    """All kernels on every case, until one ends in an error of the card: after that, nothing runs on it."""
    count = 0
    failures: list[str] = []
    for case in cases:
        count += 1
        try:
            failures += check_case(device, kernels, case)
        except DEVICE_ERRORS as error:
            failures.append(f"{case}: {first_line(error)}")
            break
    return Check(name, count, tuple(failures))


_LAYERS = (Shape(8, 197, 8, 2, 30, 96), Shape(2, 3000, 32, 2, 150, 24))


def _layer_cases(seed: int, count: int) -> list[Case]:
    """Cases for streams and graphs: of one tile and of several, in all types."""
    shapes = [replace(shape, type=type) for shape in _LAYERS for type in TYPES]
    return [Case(shapes[index % len(shapes)], "random", seed + index) for index in range(count)]


def check_streams(device: Device, kernels: Library, seed: int) -> Check:
    """Layers side by side on several streams, over and over, each with its own tensors."""
    cases = _layer_cases(seed, _STREAMS)
    inputs = [make_inputs(case) for case in cases]
    problems = [Problem(device, kernels, case.shape) for case in cases]
    for problem, values in zip(problems, inputs, strict=True):
        set_inputs(problem, values)

    def over_and_over(problem: Problem) -> Callable[[], None]:
        def work() -> None:
            for _ in range(20):
                run_separately(problem)
                problem.run("RouteDispatch")

        return work

    device.on_streams([over_and_over(problem) for problem in problems])
    names = ("slot", "weight", "src", "buf", "y")
    failures = [
        f"{case}, with others beside it: {what}"
        for case, values, problem in zip(cases, inputs, problems, strict=True)
        for what in differences(problem, expected_of(case, values), names)
    ]
    return Check("several streams at once", len(cases), tuple(failures))


def check_graphs(device: Device, kernels: Library, seed: int) -> Check:
    """A layer captured in a CUDA graph once, then replayed on other inputs."""
    replays = 4
    failures: list[str] = []
    cases = _layer_cases(seed, len(_LAYERS) * len(TYPES))
    for case in cases:
        problem = Problem(device, kernels, case.shape)
        fused = Problem(device, kernels, case.shape)

        def work(problem: Problem = problem, fused: Problem = fused) -> None:
            run_separately(problem)
            fused.run("RouteDispatch")

        set_inputs(problem, make_inputs(case))
        set_inputs(fused, make_inputs(case))
        replay = device.capture(work)
        for index in range(replays):
            other = replace(case, kind=("random", "tied", "nan", "one expert")[index % 4], seed=case.seed + 1000 + index)
            inputs = make_inputs(other)
            set_inputs(problem, inputs)
            set_inputs(fused, inputs)
            replay()
            device.synchronize()
            expected = expected_of(other, inputs)
            found = differences(problem, expected, ("slot", "weight", "src", "buf", "y"))
            found += [f"RouteDispatch: {what}" for what in differences(fused, expected, ("slot", "weight", "buf"))]
            failures += [f"{other}, replayed: {what}" for what in found]
    return Check("CUDA graphs replayed on other inputs", replays * len(cases), tuple(failures))


def check_launches(device: Device, kernels: Library, shapes: Sequence[Shape]) -> Check:
    """Every kernel is as many launches as the floors say, and neither allocates nor synchronises."""
    failures: list[str] = []

    def work() -> None:
        for shape in shapes:
            problem = Problem(device, kernels, shape)
            for kernel, launches in kernel_launches(shape).items():
                counted = problem.count_launches(kernel)
                if counted != launches:
                    failures.append(f"{kernel} at {shape} is {counted} launches instead of {launches}")

    device.on_streams([work])
    return Check("launches, with neither allocation nor synchronisation", len(shapes) * len(KERNELS), tuple(failures))
