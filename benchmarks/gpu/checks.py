"""Whether the kernels give what they must, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from cpu.errors import BenchmarkError
from torch import Tensor

from gpu import exact
from gpu.cases import Case, Inputs, make_inputs
from gpu.device import Device
from gpu.floors import KERNELS, kernel_launches
from gpu.library import Library
from gpu.problem import Problem
from gpu.report import Check
from gpu.shapes import TYPES, Shape

DEVICE_ERRORS = (BenchmarkError, RuntimeError)
"""What a call on the card may raise; torch's own errors are RuntimeErrors."""

_OUTPUTS = ("slot", "weight", "src", "buf", "y")
_REPEATS = 3
_STREAMS = 8


def first_line(error: Exception) -> str:
    """What an error says, without the advice that torch adds."""
    return str(error).strip().partition("\n")[0]


@dataclass(frozen=True)
class Expected:
    """What the kernels must give; `y` is of the case's own `out`."""

    slot: Tensor
    weight: Tensor
    src: Tensor
    buf: Tensor
    y: Tensor


def expected_of(case: Case, inputs: Inputs) -> Expected:
    """By torch on the CPU."""
    shape = case.shape
    slot, weight, src = exact.route(inputs.gates, shape.capacity, shape.choices, shape.bpr)
    return Expected(slot, weight, src, exact.dispatch(inputs.x, src), exact.combine(inputs.out, slot, weight))


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
            wrong &= ~(got.isnan() & wanted.isnan())
        if wrong.any():
            where = tuple(wrong.nonzero()[0].tolist())
            found.append(
                f"{name} differs in {int(wrong.sum())} of {wrong.numel()} places, first at {where}: "
                f"{got[where].item()} instead of {wanted[where].item()}"
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
        found += differences(problem, expected, _OUTPUTS)
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
    failures = [
        f"{case}, with others beside it: {what}"
        for case, values, problem in zip(cases, inputs, problems, strict=True)
        for what in differences(problem, expected_of(case, values), _OUTPUTS)
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
            found = differences(problem, expected, _OUTPUTS)
            found += [f"RouteDispatch: {what}" for what in differences(fused, expected, ("slot", "weight", "buf"))]
            failures += [f"{other}, replayed: {what}" for what in found]
    return Check("CUDA graphs replayed on other inputs", replays * len(cases), tuple(failures))


def check_planted(device: Device, kernels: Library, seed: int) -> Check:
    """Whether a check could fail here: a bit of each output is turned on the card, then one behind it."""
    case = _layer_cases(seed, 1)[0]
    inputs = make_inputs(case)
    problem, expected = Problem(device, kernels, case.shape), expected_of(case, inputs)
    failures = []
    for name in _OUTPUTS:
        for behind, wanted in ((False, f"{name} differs in 1 of"), (True, f"{name} was written past its ends")):
            set_inputs(problem, inputs)
            run_separately(problem)
            getattr(problem, name).plant(behind=behind)
            device.synchronize()
            if [what[: len(wanted)] for what in differences(problem, expected, _OUTPUTS)] != [wanted]:
                failures.append(f"a bit was turned {'behind' if behind else 'in'} {name}, and that alone was not seen")
            if behind:
                getattr(problem, name).plant(behind=True)
    return Check("planted faults are seen", 2 * len(_OUTPUTS), tuple(failures))


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
