"""The command line of the GPU benchmark. It runs the benchmark's parts one after the other."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from command_line import BenchmarkError, say
from on_gpu import sanitizer
from on_gpu.check import Check, first_line
from on_gpu.device import Device
from on_gpu.emulator import Emulator, dialect_of, emulator_command
from on_gpu.library import Library, build, find_nvcc, library_command

from gpu.report import FAILED, Report, file_name
from gpu.shapes import timed_shapes

PARTS = ("exactness", *sanitizer.TOOLS, "timing")
WHOLE = {"random_calls": 2000, "repeats": 30, "watched_calls": 200, "every": 1}
QUICK = {"random_calls": 200, "repeats": 5, "watched_calls": 40, "every": 12}
"""Number of random calls to check, of timed calls, and of calls under each tool; every n-th shape is timed."""
_RESULTS = Path("build") / "gpu"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="gpu.py",
        description="Build the GPU kernels for this machine's GPU, check them and time them.",
        epilog="Exit code: 0 all checks passed; 1 a check failed or can't run; 2 usage error; 4 all checks passed, but a "
        "requested part was skipped because something it needs is missing.",
    )
    add, some = parser.add_argument, "time only shapes with one of these in them: '64 x 197, E 8'"
    add("--parts", nargs="+", choices=PARTS, metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    add("--shapes", nargs="+", default=[], metavar="TEXT", help=some)
    add("--quick", action="store_true", help="use fewer calls, shapes and rounds, to check that everything works")
    add("--seed", type=_seed, default=1, metavar="N", help="seed of all random calls (default: 1)")
    add("-o", "--output", type=Path, default=_RESULTS, metavar="DIR", help=f"default: {_RESULTS}")
    given = parser.parse_args(arguments)
    for text in given.shapes:
        if not any(text in str(shape) for shape in timed_shapes()):
            parser.error(f"argument --shapes: no shape has '{text}' in it; one is '{timed_shapes()[0]}'")
    given.chosen = [*(given.parts or []), *given.shapes, *(["quick"] if given.quick else [])]
    given.parts = list(dict.fromkeys(given.parts or PARTS))
    vars(given).update(QUICK if given.quick else WHOLE)
    return given


def _seed(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**31:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and {2**31 - 1}")
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    given = parse_arguments(arguments)
    try:
        device = Device()
        with tempfile.TemporaryDirectory(prefix="vmoe-gpu-") as folder:
            say(f"building the kernels for {device.architecture}")
            nvcc = find_nvcc()
            library = build(library_command(nvcc, Path(folder, "libkernel_calls.so"), device.architecture))
            report = run(given, device, library, lambda: build_emulator(nvcc, Path(folder), device.architecture))
        code = report.end()
    except (BenchmarkError, OSError) as error:
        at_fault = f"{error.filename or given.output}: {error.strerror}" if isinstance(error, OSError) else error
        say(f"error: {at_fault}")
        return FAILED
    except KeyboardInterrupt:
        say(f"stopped; the results so far are in {given.output}")
        return FAILED
    say(f"{report.path} is written")
    return code


def build_emulator(nvcc: Path, folder: Path, architecture: str) -> Emulator:
    """Build the emulator of a GPU of this architecture in a folder.

    Raises:
        BenchmarkError: nvcc can't build it, or it can't read what nvcc makes of the kernels.
    """
    say("building the emulator")
    emulator = Emulator(build(emulator_command(nvcc, folder / "libemulator.so", dialect_of(architecture))))
    if faults := emulator.faults():
        raise BenchmarkError(f"the emulator can't read the kernels: {faults[0]}")
    return emulator


def run(given: argparse.Namespace, device: Any, library: Path, make_emulator: Callable[[], Emulator]) -> Report:
    """Run the chosen parts and return the report.

    Args:
        given: the command line.
        device: the GPU.
        library: path of the kernels' library for this GPU.
        make_emulator: builds the emulator, if it is needed.
    """
    report = Report(given.output / file_name(device.name, given.chosen))
    facts = ", ".join(f"{key}: {value}" for key, value in device.facts.items())
    report.write(f"# {device.name}\n", f"{facts}. Seed {given.seed}.")
    kernels = Library(library)
    kernels.call("empty", device.stream())  # if the driver is too old, the call fails here, before the first part
    for part in given.parts:
        report.write(f"\n## {part}\n")
        if part == "timing":
            _time_kernels(report, given, device, kernels)
        elif part == "exactness":
            _check_exactness(report, given, device, kernels, make_emulator)
        elif program := sanitizer.find_sanitizer():
            say(f"{part}: {given.watched_calls} calls, seed {given.seed}")
            report.check(sanitizer.run_tool(program, part, library, given.watched_calls, given.seed))
        else:
            report.skip(part, sanitizer.MISSING)
    return report


def _check_exactness(
    report: Report, given: argparse.Namespace, device: Any, kernels: Library, make_emulator: Callable[[], Emulator]
) -> None:
    """Run the kernels on the GPU and in the emulator. After the first check, say whether the emulator was right."""
    from on_gpu.checks import check_exactness

    try:
        emulator = make_emulator()
    except BenchmarkError as error:
        report.check(Check("exactness", 0, [str(error)]))
        return
    results = list[Check]()

    def tell(check: Check) -> None:
        report.check(check)
        if not results:
            right = "the emulator was right: its outputs and the GPU's have the same bits"
            report.write(f"- {'the emulator and the GPU do not agree; see above' if check.failures else right}")
        results.append(check)

    check_exactness(tell, device, kernels, emulator, given.seed, given.random_calls)


def _time_kernels(report: Report, given: argparse.Namespace, device: Any, kernels: Library) -> None:
    """Time the kernels at all shapes, or only at the shapes of `--shapes`. With `--quick`, skip some of the shapes."""
    from gpu.timing import measure_rates, measure_shape

    shapes = [shape for shape in timed_shapes() if not given.shapes or any(text in str(shape) for text in given.shapes)]
    what, notes = "an empty kernel and a copy", list[str]()
    try:
        rates = measure_rates(device, kernels, given.repeats)
        report.write(
            f"A copy within the GPU's memory reads and writes {rates.copy / 1e12:.2f} TB/s; floors use this rate. An empty "
            f"kernel takes {rates.launch * 1e6:.2f} µs. Times are medians of interleaved CUDA graphs on rotating buffers, "
            "without the launch time on the CPU.\n"
        )
        for shape in shapes[:: given.every]:
            what = str(shape)
            say(f"timing: {what}")
            for row in measure_shape(device, kernels, shape, rates, given.repeats):
                report.row(row)
                notes += row["notes"]
    except RuntimeError as error:
        report.check(Check(f"timing, {what}", 1, (first_line(error),)))
    report.write("", *(f"- {note}" for note in dict.fromkeys(notes)))
