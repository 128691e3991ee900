"""The command: builds, checks, times and reports."""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cpu.errors import BenchmarkError

from gpu import checks, sanitizer
from gpu.cases import named_cases, random_cases
from gpu.device import CudaDevice, Device
from gpu.document import floors_text
from gpu.floors import memory_rate
from gpu.frameworks import prepare_bundles, run_frameworks
from gpu.library import Library, build, checker_command, find_nvcc, library_command
from gpu.report import failures_of, missed_bars, write_report
from gpu.rows import measure_rates, measure_shape
from gpu.shapes import Shape, bar_shapes, sweep_shapes
from vmoe_runtime.errors import VmoeError

PARTS = ("exactness", "sanitizer", "timing", "frameworks")
PASSED, FAILED, BAR_MISSED, NO_SANITIZER = 0, 1, 3, 4

_RESULTS = Path(__file__).parents[1] / "results"
_WORK = Path("build") / "gpu"
_RANDOM_CASES = {False: 400, True: 40}
_REPEATS = {False: 30, True: 5}
_LAUNCH_SHAPES = (
    Shape(1, 197, 8, 1, 8, 96),
    Shape(64, 577, 8, 2, 100, 96, "bf16"),
    Shape(2, 2048, 8, 1, 100, 5, "fp16"),
    Shape(2, 2049, 8, 1, 100, 8),
    Shape(1, 65_536, 64, 4, 2_000, 8, "bf16", "bf16"),
)

Say = Callable[[str], None]


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="gpu.py",
        description="Builds the GPU kernels for this machine's card, checks and times them.",
        epilog="Exit code: 0 all is right; 1 something is wrong or can't run; 2 usage; 3 all is right, but a kernel is over "
        "its bar; 4 all is right, but compute-sanitizer isn't installed.",
    )
    parser.add_argument("--floors", action="store_true", help="print the floors for an H100 as in GPU.md, and do no more")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="fewer cases, shapes and rounds, to see that it works")
    parser.add_argument("--seed", type=_seed, default=1, metavar="N", help="of all random cases (default: 1)")
    parser.add_argument("-o", "--output", type=Path, default=_RESULTS, metavar="DIR", help="default: benchmarks/results")
    return parser.parse_args(arguments)


def _seed(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**31:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and {2**31 - 1}")
    return number


def run(given: argparse.Namespace, device: Device, kernels: Library, checker: Path, say: Say) -> dict[str, Any]:
    """Does everything that was asked for; returns the report, which is also written after each part.

    Args:
        given: the command line.
        device: the card.
        kernels: the kernels, built for it.
        checker: the program that compute-sanitizer watches.
        say: takes a line on what is being done.
    """
    report: dict[str, Any] = {
        "card": device.facts,
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": given.seed,
        "quick": given.quick,
        "checks": [],
        "skipped": {part: "not asked for" for part in PARTS if part not in given.parts},
        "rates": None,
        "rows": [],
        "frameworks": [],
    }
    steps: dict[str, Callable[[], None]] = {
        "exactness": lambda: check_exactness(report, given, device, kernels, say),
        "sanitizer": lambda: check_sanitizer(report, given, checker, say),
        "timing": lambda: measure(report, given, device, kernels, say),
        "frameworks": lambda: measure_frameworks(report, given, say),
    }
    for part, step in steps.items():
        if part in given.parts:
            step()
            write_report(report, given.output)
    return report


def check_exactness(report: dict[str, Any], given: argparse.Namespace, device: Device, kernels: Library, say: Say) -> None:
    """All kernels against numpy, on one stream and many, in graphs; seeds are part of every failure."""
    cases = list(random_cases(given.seed, _RANDOM_CASES[given.quick]))
    steps: list[tuple[str, Callable[[], checks.Check]]] = [
        ("named cases", lambda: checks.check_cases(device, kernels, "named cases", named_cases(given.seed))),
        (f"{len(cases)} random cases", lambda: checks.check_cases(device, kernels, "random cases", cases)),
        ("streams", lambda: checks.check_streams(device, kernels, given.seed)),
        ("graphs", lambda: checks.check_graphs(device, kernels, given.seed)),
        ("launches", lambda: checks.check_launches(device, kernels, _LAUNCH_SHAPES)),
    ]
    for name, step in steps:
        say(f"exactness: {name}, seed {given.seed}")
        report["checks"].append(guarded(name, step).as_json())


def guarded(name: str, step: Callable[[], checks.Check]) -> checks.Check:
    """The step's check; where the card gives an error, that is its failure."""
    try:
        return step()
    except checks.DEVICE_ERRORS as error:
        return checks.Check(name, 1, (checks.first_line(error),))


def check_sanitizer(report: dict[str, Any], given: argparse.Namespace, checker: Path, say: Say) -> None:
    """compute-sanitizer, where it is installed."""
    program = sanitizer.find_sanitizer()
    if program is None:
        report["skipped"]["sanitizer"] = sanitizer.MISSING
        return
    say(f"sanitizer: {', '.join(sanitizer.TOOLS)}, seed {given.seed}")
    report["checks"] += [check.as_json() for check in sanitizer.run_sanitizer(program, checker, given.seed)]


def measure(report: dict[str, Any], given: argparse.Namespace, device: Device, kernels: Library, say: Say) -> None:
    """All shapes; with --quick, some."""
    repeats = _REPEATS[given.quick]
    shapes = [(shape, True) for shape in bar_shapes()] + [(shape, False) for shape in sweep_shapes()]
    if given.quick:
        shapes = shapes[::12]
    what = "an empty kernel and a copy"
    try:
        rates = measure_rates(device, kernels, repeats, memory_rate)
        report["rates"] = asdict(rates)
        for index, (shape, bar) in enumerate(shapes):
            what = str(shape)
            say(f"timing: {index + 1} of {len(shapes)}, {what}")
            with_peers = shape.type != "fp16"  # bfloat16 moves the same bytes
            report["rows"] += measure_shape(device, kernels, shape, rates, repeats, bar=bar, with_peers=with_peers)
    except checks.DEVICE_ERRORS as error:
        report["checks"].append(checks.Check(f"timing, {what}", 1, (checks.first_line(error),)).as_json())


def measure_frameworks(report: dict[str, Any], given: argparse.Namespace, say: Say) -> None:
    """ONNX Runtime and TensorRT, where they are installed."""
    try:
        bundles = prepare_bundles(_WORK, "tiny" if given.quick else "b16", say)
    except ImportError as error:
        report["skipped"]["frameworks"] = f"the exporter can't be used here ({error}); pip install '.[export]'"
        return
    except VmoeError as error:
        failed = checks.Check("export", 1, (str(error),))
        report["checks"].append(failed.as_json())
        return
    for part in run_frameworks(bundles, _WORK, _REPEATS[given.quick], say):
        report["frameworks"].append(part.as_json())
        if part.skipped is not None:
            report["skipped"][part.name] = part.skipped
        write_report(report, given.output)


def exit_code(report: dict[str, Any]) -> int:
    """What became of a run: wrong results weigh more than a bar, and a bar more than a missing tool."""
    if failures_of(report):
        return FAILED
    if missed_bars(report):
        return BAR_MISSED
    return NO_SANITIZER if report["skipped"].get("sanitizer") == sanitizer.MISSING else PASSED


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    given = parse_arguments(arguments)
    if given.floors:
        print(floors_text(), end="")
        return PASSED
    try:
        device = CudaDevice()
        nvcc = find_nvcc()
        with tempfile.TemporaryDirectory(prefix="vmoe-gpu-") as folder:
            _say(f"building the kernels for {device.name} ({device.architecture})")
            built = build(library_command(nvcc, device.architecture, Path(folder, "libdevice_calls.so")))
            checker = build(checker_command(nvcc, device.architecture, Path(folder, "kernel_check")))
            kernels = Library(built)
            kernels.empty(device.stream())  # a driver that is too old says so now
            report = run(given, device, kernels, checker, _say)
        paths = write_report(report, given.output)
    except (BenchmarkError, VmoeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except OSError as error:
        print(f"error: {error.filename or given.output}: {error.strerror}", file=sys.stderr)
        return FAILED
    tell(report, paths)
    return exit_code(report)


def tell(report: dict[str, Any], paths: Sequence[Path]) -> None:
    """Prints what was skipped, what was wrong and where the rest stands."""
    for name, why in report["skipped"].items():
        _say(f"skipped: {name}: {why}")
    for sentence in missed_bars(report):
        _say(f"over the bar: {sentence}")
    for sentence in failures_of(report):
        _say(f"wrong: {sentence}")
    print(paths[1].read_text().partition("\n\n")[2].partition("\n\n")[0])
    _say(f"{' and '.join(map(str, paths))} are written")


def _say(text: str) -> None:
    print(text, file=sys.stderr)
