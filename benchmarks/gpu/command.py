"""The command line. Only what runs on a card needs more than Python itself."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cpu.errors import BenchmarkError

from gpu.device import CudaDevice
from gpu.document import floors_text
from gpu.library import Library, build, checker_command, find_nvcc, library_command
from gpu.report import failures_of, missed_bars, write_report
from gpu.sanitizer import TOOLS
from gpu.shapes import bar_shapes, sweep_shapes

KERNEL_PARTS = ("exactness", *TOOLS, "timing")
PARTS = (*KERNEL_PARTS, "frameworks")
PASSED, FAILED, BAR_MISSED, NOT_RUN = 0, 1, 3, 4

_RESULTS = Path(__file__).parents[1] / "results"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="gpu.py",
        description="Builds the GPU kernels for this machine's card, checks and times them.",
        epilog="Exit code: 0 all is right; 1 something is wrong or can't run; 2 usage; 3 all is right, but a kernel is over "
        "its bar; 4 all is right, but a part that was asked for lacks what it needs.",
    )
    parser.add_argument("--floors", action="store_true", help="print the floors for an H100, and do no more")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, metavar="PART", help=f"{', '.join(PARTS)} (default: all but the last)"
    )
    parser.add_argument(
        "--shapes", nargs="+", default=[], metavar="TEXT", help="time only shapes with one of these in them: '64 x 197, E 8'"
    )
    parser.add_argument("--quick", action="store_true", help="fewer cases, shapes and rounds, to see that it works")
    parser.add_argument("--seed", type=_seed, default=1, metavar="N", help="of all random cases (default: 1)")
    parser.add_argument("-o", "--output", type=Path, default=_RESULTS, metavar="DIR", help="default: benchmarks/results")
    given = parser.parse_args(arguments)
    for text in given.shapes:
        if not any(text in str(shape) for shape in (*bar_shapes(), *sweep_shapes())):
            parser.error(f"argument --shapes: no shape has '{text}' in it; one is '{bar_shapes()[0]}'")
    given.chosen = [*(given.parts or []), *given.shapes, *(["quick"] if given.quick else [])]
    given.parts = given.parts or list(KERNEL_PARTS)
    return given


def _seed(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**31:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and {2**31 - 1}")
    return number


def exit_code(report: dict[str, Any]) -> int:
    """What became of a run: wrong results weigh more than a bar, and a bar more than what couldn't run."""
    if failures_of(report):
        return FAILED
    if missed_bars(report):
        return BAR_MISSED
    return NOT_RUN if report["skipped"] else PASSED


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    given = parse_arguments(arguments)
    if given.floors:
        print(floors_text(), end="")
        return PASSED
    try:
        device = CudaDevice()
        with tempfile.TemporaryDirectory(prefix="vmoe-gpu-") as folder:
            kernels, checker = _build(given.parts, device.architecture, Path(folder))
            if kernels is not None:
                kernels.empty(device.stream())  # a driver that is too old says so now
            from gpu.parts import run  # needs torch, which is there now

            report = run(given, device, kernels, checker, _say)
        paths = write_report(report, given.output)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except OSError as error:
        print(f"error: {error.filename or given.output}: {error.strerror}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"stopped; what was done stands in {given.output}", file=sys.stderr)
        return FAILED
    tell(report, paths)
    return exit_code(report)


def _build(parts: Sequence[str], architecture: str, folder: Path) -> tuple[Library | None, Path | None]:
    """The kernels and the program that compute-sanitizer watches, as far as some parts need them."""
    kernels = checker = None
    if {"exactness", "timing"} & set(parts):
        _say(f"building the kernels for {architecture}")
        kernels = Library(build(library_command(find_nvcc(), architecture, folder / "libdevice_calls.so")))
    if {"exactness", *TOOLS} & set(parts):
        _say(f"building the checker for {architecture}")
        checker = build(checker_command(find_nvcc(), architecture, folder / "kernel_check"))
    return kernels, checker


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
    print(text, file=sys.stderr, flush=True)
