"""Checks that the kernels' results are right, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from command_line import say
from torch import Tensor

from on_gpu import cases, exact
from on_gpu.cases import Case, make_inputs
from on_gpu.check import Check, first_line
from on_gpu.device import Device
from on_gpu.gates import check_gates
from on_gpu.guarded import GuardedProblem
from on_gpu.library import KERNELS, Library, kernel_launches
from on_gpu.shape import TYPES, Shape

Tensors = dict[str, Tensor]

OUTPUTS = ("slot", "weight", "src", "buf", "y")
_FUSED_OUTPUTS = ("slot", "weight", "buf")
_SEPARATE = ("Route", "Dispatch", "Combine")
_REPEATS, _STREAMS, _REPLAYS = 3, 8, 4
_LAYERS = tuple(
    replace(s, type=type) for s in (Shape(8, 197, 8, 2, 30, 96), Shape(2, 3000, 32, 2, 150, 24)) for type in TYPES
)
"""The layers for streams and graphs: groups of one tile and of several, in all types."""


LAUNCH_SHAPES = (
    Shape(1, 197, 8, 1, 8, 96),
    Shape(64, 577, 8, 2, 100, 96, "bf16"),
    Shape(2, 2048, 8, 1, 100, 5, "fp16"),
    Shape(2, 2049, 8, 1, 100, 8),
    Shape(1, 65_536, 64, 4, 2_000, 8, "bf16"),
)


def check_exactness(tell: Callable[[Check], None], device: Device, kernels: Library, seed: int, random_cases: int) -> None:
    """Compare all kernels with torch on the CPU: on one stream, on several streams, and in CUDA graphs.

    Every failure message contains its seed.
    """
    steps: dict[str, Callable[[], Check]] = {
        "named cases": lambda: check_cases(device, kernels, "named cases", cases.named_cases(seed)),
        "random cases": lambda: check_cases(device, kernels, "random cases", cases.random_cases(seed, random_cases)),
        "gates": lambda: check_gates(device, kernels, seed),
        "streams": lambda: check_streams(device, kernels, seed),
        "graphs": lambda: check_graphs(device, kernels, seed),
        "launches": lambda: check_launches(device, kernels, LAUNCH_SHAPES),
    }
    for name, step in steps.items():
        say(f"exactness: {name}, seed {seed}")
        try:
            tell(step())
        except RuntimeError as error:
            tell(Check(name, 1, (first_line(error),)))


def expected_of(case: Case, inputs: Tensors) -> Tensors:
    """Compute the expected results of a case with torch on the CPU. The result `y` is computed from the input `out`."""
    shape = case.shape
    slot, weight, src = exact.route(inputs["gates"], shape.capacity, shape.choices, shape.bpr)
    buf, y = exact.dispatch(inputs["x"], src), exact.combine(inputs["out"], slot, weight)
    return dict(zip(OUTPUTS, (slot, weight, src, buf, y), strict=True))


def differences(problem: GuardedProblem, expected: Tensors, names: Sequence[str] = OUTPUTS) -> list[str]:
    """Describe how a problem's outputs differ from the expected outputs."""
    found = []
    for name in names:
        got, wanted = problem.get(name), expected[name]
        wrong = ~exact.same_bits(got, wanted)
        if name == "y":  # the bits of a NaN sum are unspecified
            wrong &= ~(got.isnan() & wanted.isnan())
        if wrong.any():
            where = tuple(wrong.nonzero()[0].tolist())
            values = f"{got[where].item()} instead of {wanted[where].item()}"
            found.append(f"{name} differs in {int(wrong.sum())} of {wrong.numel()} elements, first at {where}: {values}")
    guarded = [name for name in (*names, "workspace") if not problem.guards_hold(name)]
    return found + [f"{name} was written past its ends" for name in guarded]


def check_case(device: Device, kernels: Library, case: Case) -> list[str]:
    """Run all kernels on a case several times, and return messages about wrong results."""
    inputs = make_inputs(case)
    expected, problem = expected_of(case, inputs), GuardedProblem(device, kernels, case.shape, case.offset)
    found: list[str] = []
    for _ in range(_REPEATS):
        problem.set(inputs)
        problem.run(*_SEPARATE)
        device.synchronize()
        found += differences(problem, expected)
    problem.set(inputs)
    problem.run("RouteDispatch")
    device.synchronize()
    found += [f"RouteDispatch: {what}" for what in differences(problem, expected, _FUSED_OUTPUTS)]
    return [f"{case}: {what}" for what in dict.fromkeys(found)]


def check_cases(device: Device, kernels: Library, name: str, cases: Iterable[Case]) -> Check:
    """Run all kernels on every case. Stop at the first GPU error, because no kernel can run after it."""
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
    """Run several layers repeatedly and at the same time, each on its own stream with its own tensors."""
    cases = _layer_cases(seed, _STREAMS)
    problems = [GuardedProblem(device, kernels, case.shape) for case in cases]
    for problem, case in zip(problems, cases, strict=True):
        problem.set(make_inputs(case))
    device.on_streams([partial(problem.run, *(*_SEPARATE, "RouteDispatch") * 20) for problem in problems])
    failures = [
        f"{case}, with others beside it: {what}"
        for case, problem in zip(cases, problems, strict=True)
        for what in differences(problem, expected_of(case, make_inputs(case)))
    ]
    return Check("several streams at once", len(cases), tuple(failures))


def check_graphs(device: Device, kernels: Library, seed: int) -> Check:
    """Capture a layer in a CUDA graph once, then replay the graph on other inputs."""
    failures: list[str] = []
    cases = _layer_cases(seed, len(_LAYERS))
    for case in cases:
        problem, fused = (GuardedProblem(device, kernels, case.shape) for _ in range(2))

        def work(problem: GuardedProblem = problem, fused: GuardedProblem = fused) -> None:
            problem.run(*_SEPARATE)
            fused.run("RouteDispatch")

        for each in (problem, fused):
            each.set(make_inputs(case))
        replay = device.capture(work)
        for index in range(_REPLAYS):
            other = replace(case, kind=("random", "tied", "nan", "one expert")[index % 4], seed=case.seed + 1000 + index)
            inputs = make_inputs(other)
            for each in (problem, fused):
                each.set(inputs)
            replay()
            device.synchronize()
            expected = expected_of(other, inputs)
            found = differences(problem, expected)
            found += [f"RouteDispatch: {what}" for what in differences(fused, expected, _FUSED_OUTPUTS)]
            failures += [f"{other}, replayed: {what}" for what in found]
    return Check("CUDA graphs replayed on other inputs", _REPLAYS * len(cases), tuple(failures))


def check_launches(device: Device, kernels: Library, shapes: Sequence[Shape]) -> Check:
    """Check that each kernel makes the expected number of launches, and that it does not allocate or synchronize."""
    failures: list[str] = []

    def work() -> None:
        for shape in shapes:
            problem = GuardedProblem(device, kernels, shape)
            for kernel, launches in kernel_launches(shape).items():
                counted = problem.count_launches(kernel)
                if counted != launches:
                    failures.append(f"{kernel} at {shape} is {counted} launches instead of {launches}")

    device.on_streams([work])
    return Check("launches, with neither allocation nor synchronisation", len(shapes) * len(KERNELS), tuple(failures))
