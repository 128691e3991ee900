"""Whether the kernels give what they must, bit for bit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from gpu import exact
from gpu.cases import Case, make_inputs
from gpu.device import Device
from gpu.floors import KERNELS, kernel_launches
from gpu.library import Library
from gpu.problem import Problem
from gpu.report import Check, first_line
from gpu.shapes import TYPES, Shape

Tensors = dict[str, Tensor]

OUTPUTS = ("slot", "weight", "src", "buf", "y")
_FUSED_OUTPUTS = ("slot", "weight", "buf")
_SEPARATE = ("Route", "Dispatch", "Combine")
_REPEATS, _STREAMS, _REPLAYS = 3, 8, 4
_LAYERS = tuple(
    replace(s, type=type) for s in (Shape(8, 197, 8, 2, 30, 96), Shape(2, 3000, 32, 2, 150, 24)) for type in TYPES
)
"""For streams and graphs: of one tile and of several, in all types."""


def expected_of(case: Case, inputs: Tensors) -> Tensors:
    """What the kernels must give, by torch on the CPU; `y` is of the case's own `out`."""
    shape = case.shape
    slot, weight, src = exact.route(inputs["gates"], shape.capacity, shape.choices, shape.bpr)
    buf, y = exact.dispatch(inputs["x"], src), exact.combine(inputs["out"], slot, weight)
    return dict(zip(OUTPUTS, (slot, weight, src, buf, y), strict=True))


def set_inputs(problem: Problem, inputs: Tensors) -> None:
    """Copies a case's inputs to the card, and spoils everything that kernels write."""
    for name, array in problem.arrays.items():
        if name in inputs:
            array.set(inputs[name])
        else:
            array.spoil()


def differences(problem: Problem, expected: Tensors, names: Sequence[str] = OUTPUTS) -> list[str]:
    """What of a problem's outputs is not as expected, in words."""
    found = []
    for name in names:
        got, wanted = problem.arrays[name].get(), expected[name]
        wrong = ~exact.same_bits(got, wanted)
        if name == "y":  # a sum that is no number has no bits to agree on
            wrong &= ~(got.isnan() & wanted.isnan())
        if wrong.any():
            where = tuple(wrong.nonzero()[0].tolist())
            values = f"{got[where].item()} instead of {wanted[where].item()}"
            found.append(f"{name} differs in {int(wrong.sum())} of {wrong.numel()} places, first at {where}: {values}")
    guarded = [name for name in (*names, "workspace") if not problem.arrays[name].guards_hold()]
    return found + [f"{name} was written past its ends" for name in guarded]


def check_case(device: Device, kernels: Library, case: Case) -> list[str]:
    """Runs all kernels on a case, several times; returns what was wrong."""
    inputs = make_inputs(case)
    expected, problem = expected_of(case, inputs), Problem(device, kernels, case.shape, case.offset)
    found: list[str] = []
    for _ in range(_REPEATS):
        set_inputs(problem, inputs)
        problem.run(*_SEPARATE)
        device.synchronize()
        found += differences(problem, expected)
    set_inputs(problem, inputs)
    problem.run("RouteDispatch")
    device.synchronize()
    found += [f"RouteDispatch: {what}" for what in differences(problem, expected, _FUSED_OUTPUTS)]
    return [f"{case}: {what}" for what in dict.fromkeys(found)]


def check_cases(device: Device, kernels: Library, name: str, cases: Iterable[Case]) -> Check:
    """All kernels on every case, until one ends in an error of the card: after that, nothing runs on it."""
    count, failures = 0, list[str]()
    for case in cases:
        count += 1
        try:
            failures += check_case(device, kernels, case)
        except RuntimeError as error:
            failures.append(f"{case}: {first_line(error)}")
            break
    return Check(name, count, tuple(failures))


def _layer_cases(seed: int, count: int) -> list[Case]:
    return [Case(_LAYERS[index % len(_LAYERS)], "random", seed + index) for index in range(count)]


def check_streams(device: Device, kernels: Library, seed: int) -> Check:
    """Layers side by side on several streams, over and over, each with its own tensors."""
    cases = _layer_cases(seed, _STREAMS)
    problems = [Problem(device, kernels, case.shape) for case in cases]
    for problem, case in zip(problems, cases, strict=True):
        set_inputs(problem, make_inputs(case))
    device.on_streams([partial(problem.run, *(*_SEPARATE, "RouteDispatch") * 20) for problem in problems])
    failures = [
        f"{case}, with others beside it: {what}"
        for case, problem in zip(cases, problems, strict=True)
        for what in differences(problem, expected_of(case, make_inputs(case)))
    ]
    return Check("several streams at once", len(cases), tuple(failures))


def check_graphs(device: Device, kernels: Library, seed: int) -> Check:
    """A layer captured in a CUDA graph once, then replayed on other inputs."""
    failures: list[str] = []
    cases = _layer_cases(seed, len(_LAYERS))
    for case in cases:
        problem, fused = (Problem(device, kernels, case.shape) for _ in range(2))

        def work(problem: Problem = problem, fused: Problem = fused) -> None:
            problem.run(*_SEPARATE)
            fused.run("RouteDispatch")

        for each in (problem, fused):
            set_inputs(each, make_inputs(case))
        replay = device.capture(work)
        for index in range(_REPLAYS):
            other = replace(case, kind=("random", "tied", "nan", "one expert")[index % 4], seed=case.seed + 1000 + index)
            inputs = make_inputs(other)
            for each in (problem, fused):
                set_inputs(each, inputs)
            replay()
            device.synchronize()
            expected = expected_of(other, inputs)
            found = differences(problem, expected)
            found += [f"RouteDispatch: {what}" for what in differences(fused, expected, _FUSED_OUTPUTS)]
            failures += [f"{other}, replayed: {what}" for what in found]
    return Check("CUDA graphs replayed on other inputs", _REPLAYS * len(cases), tuple(failures))


def check_planted(device: Device, kernels: Library, seed: int) -> Check:
    """Whether a check could fail here: a bit of each output is turned on the card, then one behind it."""
    case = _layer_cases(seed, 1)[0]
    inputs = make_inputs(case)
    problem, expected = Problem(device, kernels, case.shape), expected_of(case, inputs)
    failures = []
    for name in OUTPUTS:
        for behind, wanted in ((False, f"{name} differs in 1 of"), (True, f"{name} was written past its ends")):
            set_inputs(problem, inputs)
            problem.run(*_SEPARATE)
            problem.arrays[name].plant(behind=behind)
            device.synchronize()
            if [what[: len(wanted)] for what in differences(problem, expected)] != [wanted]:
                failures.append(f"a bit was turned {'behind' if behind else 'in'} {name}, and that alone was not seen")
            if behind:
                problem.arrays[name].plant(behind=True)
    return Check("planted faults are seen", 2 * len(OUTPUTS), tuple(failures))


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
