"""The command line, and the parts of a run one after the other. Only what runs on a card needs more than Python itself.

What is found is written as it is found, so that a run that is stopped or killed keeps it.
"""

from __future__ import annotations

import argparse
import datetime
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from command_line import BenchmarkError, say

from gpu import sanitizer
from gpu.device import Device
from gpu.floors import floors_text
from gpu.library import Library, build, find_nvcc, library_command
from gpu.report import Check, failures_of, missed_bars, summary, write_report
from gpu.shapes import Shape, bar_shapes, sweep_shapes

KERNEL_PARTS = ("exactness", *sanitizer.TOOLS, "timing")
PARTS = (*KERNEL_PARTS, "frameworks")
PASSED, FAILED, BAR_MISSED, NOT_RUN = 0, 1, 3, 4

RANDOM_CASES, REPEATS, LAYERS = 400, 30, 40
QUICK_RANDOM_CASES, QUICK_REPEATS, QUICK_LAYERS = 40, 5, 10
LAUNCH_SHAPES = (
    Shape(1, 197, 8, 1, 8, 96),
    Shape(64, 577, 8, 2, 100, 96, "bf16"),
    Shape(2, 2048, 8, 1, 100, 5, "fp16"),
    Shape(2, 2049, 8, 1, 100, 8),
    Shape(1, 65_536, 64, 4, 2_000, 8, "bf16", "bf16"),
)
_RESULTS = Path("build") / "gpu"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="gpu.py",
        description="Builds the GPU kernels for this machine's card, checks and times them.",
        epilog="Exit code: 0 all is right; 1 something is wrong or can't run; 2 usage; 3 all is right, but a kernel is over "
        "its bar; 4 all is right, but a part that was asked for lacks what it needs.",
    )
    add = parser.add_argument
    add("--floors", action="store_true", help="print the floors for an H100, and do no more")
    add("--parts", nargs="+", choices=PARTS, metavar="PART", help=f"{', '.join(PARTS)} (default: all but the last)")
    add(
        "--shapes", nargs="+", default=[], metavar="TEXT", help="time only shapes with one of these in them: '64 x 197, E 8'"
    )
    add("--quick", action="store_true", help="fewer cases, shapes and rounds, to see that it works")
    add("--seed", type=_seed, default=1, metavar="N", help="of all random cases (default: 1)")
    add("-o", "--output", type=Path, default=_RESULTS, metavar="DIR", help=f"default: {_RESULTS}")
    given = parser.parse_args(arguments)
    for text in given.shapes:
        if not any(text in str(shape) for shape in (*bar_shapes(), *sweep_shapes())):
            parser.error(f"argument --shapes: no shape has '{text}' in it; one is '{bar_shapes()[0]}'")
    given.chosen = [*(given.parts or []), *given.shapes, *(["quick"] if given.quick else [])]
    given.parts = list(dict.fromkeys(given.parts or KERNEL_PARTS))
    given.random_cases = QUICK_RANDOM_CASES if given.quick else RANDOM_CASES
    given.repeats = QUICK_REPEATS if given.quick else REPEATS
    given.layers = QUICK_LAYERS if given.quick else LAYERS
    return given


def _seed(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**31:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and {2**31 - 1}")
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    given = parse_arguments(arguments)
    if given.floors:
        print(floors_text(), end="")
        return PASSED
    try:
        device = Device()
        with tempfile.TemporaryDirectory(prefix="vmoe-gpu-") as folder:
            library = None
            if set(given.parts) & set(KERNEL_PARTS):
                say(f"building the kernels for {device.architecture}")
                library = build(library_command(find_nvcc(), device.architecture, Path(folder, "libkernel_calls.so")))
            report = run(given, device, library)
        paths = write_report(report, given.output)
    except (BenchmarkError, OSError) as error:
        at_fault = f"{error.filename or given.output}: {error.strerror}" if isinstance(error, OSError) else error
        say(f"error: {at_fault}")
        return FAILED
    except KeyboardInterrupt:
        say(f"stopped; what was done stands in {given.output}")
        return FAILED
    tell(report, paths)
    return exit_code(report)


def run(given: argparse.Namespace, device: Any, library: Path | None) -> dict[str, Any]:
    """Does everything that was asked for; returns the report, which is also written after each check and row.

    `library` is the kernels', or None where no part needs them.
    """
    report: dict[str, Any] = {
        "card": device.facts,
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": given.seed,
        "chosen": given.chosen,
        **{"checks": [], "skipped": {}, "rates": None, "rows": [], "points": []},
    }
    save = partial(write_report, report, given.output)
    if library is not None:
        kernels = Library(library)
        kernels.empty(device.stream())  # a driver that is too old says so now
    for part in given.parts:
        if part == "frameworks":
            _run_frameworks(report, given, save)
        elif part == "timing":
            _time_kernels(report, given, device, kernels, save)
        elif part == "exactness":
            _check_exactness(report, given, device, kernels, save)
        else:
            assert library is not None
            _check_under_tool(report, given, part, library)
        save()
    return report


def _check_exactness(
    report: dict[str, Any], given: argparse.Namespace, device: Any, kernels: Library, save: Callable[[], object]
) -> None:
    """All kernels against torch on the CPU, on one stream and many, in graphs; seeds are part of every failure."""
    from gpu import checks
    from gpu.cases import named_cases, random_cases

    seed, count = given.seed, given.random_cases
    steps: dict[str, Callable[[], Check]] = {
        "planted faults": lambda: checks.check_planted(device, kernels, seed),
        "named cases": lambda: checks.check_cases(device, kernels, "named cases", named_cases(seed)),
        "random cases": lambda: checks.check_cases(device, kernels, "random cases", random_cases(seed, count)),
        "streams": lambda: checks.check_streams(device, kernels, seed),
        "graphs": lambda: checks.check_graphs(device, kernels, seed),
        "launches": lambda: checks.check_launches(device, kernels, LAUNCH_SHAPES),
    }
    for name, step in steps.items():
        say(f"exactness: {name}, seed {seed}")
        report["checks"].append(checks.guarded(name, step).as_json())
        save()


def _check_under_tool(report: dict[str, Any], given: argparse.Namespace, tool: str, library: Path) -> None:
    program = sanitizer.find_sanitizer()
    if program is None:
        report["skipped"][tool] = sanitizer.MISSING
        return
    say(f"{tool}: {given.layers} layers, seed {given.seed}")
    report["checks"] += [check.as_json() for check in sanitizer.run_tool(program, tool, library, given.layers, given.seed)]


def _time_kernels(
    report: dict[str, Any], given: argparse.Namespace, device: Any, kernels: Library, save: Callable[[], object]
) -> None:
    """All shapes, or those that were chosen; with --quick, some of them."""
    from gpu.checks import DEVICE_ERRORS, first_line
    from gpu.timing import measure_rates, measure_shape

    shapes = [(shape, True) for shape in bar_shapes()] + [(shape, False) for shape in sweep_shapes()]
    shapes = [(shape, bar) for shape, bar in shapes if not given.shapes or any(text in str(shape) for text in given.shapes)]
    what = "an empty kernel and a copy"
    try:
        rates = measure_rates(device, kernels, given.repeats)
        report["rates"] = asdict(rates)
        for shape, bar in shapes[:: 12 if given.quick else 1]:
            what = str(shape)
            say(f"timing: {what}")
            for row in measure_shape(device, kernels, shape, rates, given.repeats, bar=bar):
                report["rows"].append(row)
                save()
    except DEVICE_ERRORS as error:
        report["checks"].append(Check(f"timing, {what}", 1, (first_line(error),)).as_json())


def _run_frameworks(report: dict[str, Any], given: argparse.Namespace, save: Callable[[], object]) -> None:
    """ONNX Runtime and TensorRT, where they are installed; only then is anything exported."""
    try:
        from gpu import frameworks
    except ImportError as error:
        report["skipped"]["frameworks"] = f"this Python lacks {error.name}; run it in one that has the project installed"
        return
    frameworks.run(report, given.output / "work", "tiny" if given.quick else "b16", given.repeats, save)


def tell(report: dict[str, Any], paths: Sequence[Path]) -> None:
    """Prints what was skipped, what was wrong and where the rest stands."""
    for name, why in report["skipped"].items():
        say(f"skipped: {name}: {why}")
    for sentence in missed_bars(report):
        say(f"over the bar: {sentence}")
    for sentence in failures_of(report):
        say(f"wrong: {sentence}")
    print(summary(report))
    say(f"{' and '.join(map(str, paths))} are written")


def exit_code(report: dict[str, Any]) -> int:
    """What became of a run: wrong results weigh more than a bar, and a bar more than what couldn't run."""
    if failures_of(report):
        return FAILED
    return BAR_MISSED if missed_bars(report) else NOT_RUN if report["skipped"] else PASSED
