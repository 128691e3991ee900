"""The command `vmoe-bench`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TextIO

from vmoe_bench.arguments import PROGRAM, STANDARD_OUTPUT, Arguments, parse_arguments
from vmoe_bench.errors import BenchError, UsageError
from vmoe_bench.machine import describe_machine
from vmoe_bench.measurement import summarize, time_interleaved
from vmoe_bench.points import Point, plan_points
from vmoe_bench.quality import assess
from vmoe_bench.report import PointReport, check_target, report_point, to_json, write_report
from vmoe_runtime import Engine, VmoeError
from vmoe_runtime.backends import BACKENDS
from vmoe_runtime.bundle import Bundle
from vmoe_runtime.image_source import ImageSource, open_images, synthetic_images
from vmoe_runtime.profiles import Profile

TablePrinter = Callable[[Sequence[PointReport], str, TextIO], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: the arguments without the program's name; default: those of the process.

    Returns:
        The exit code: 0, 2 for a wrong command line, 130 when interrupted, 1 for whatever else goes wrong.
    """
    try:
        _bench(parse_arguments(argv))
        # Flushed here and not at exit, where a reader that has gone would cost a traceback.
        sys.stdout.flush()
    except (BenchError, VmoeError, OSError, MemoryError, KeyboardInterrupt) as error:
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sentence, code = _explain(error)
        print(f"{PROGRAM}: {sentence}", file=sys.stderr)
        return code
    return 0


def _explain(error: BaseException) -> tuple[str, int]:
    """What to tell the user, and the exit code."""
    if isinstance(error, OSError):
        return f"{error.filename or 'output'}: {error.strerror or error}", 1
    if isinstance(error, MemoryError):
        return "there is not enough memory; try a smaller --batch-size", 1
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    return str(error), 2 if isinstance(error, UsageError) else 1


def _bench(arguments: Arguments) -> None:
    # Both before the measurement: nobody should wait for numbers that then can't be shown.
    print_table = _table_printer()
    json_file = None if arguments.json in (None, STANDARD_OUTPUT) else Path(str(arguments.json))
    if json_file is not None:
        check_target(json_file)
    with ExitStack() as closing:
        engines = _load_engines(arguments, closing)
        points = plan_points(engines, arguments.profiles, arguments.batch_sizes)
        source = _images(arguments.images, points)
        reports = _measure(points, source, arguments.duration, arguments.threads)
        text = to_json(describe_machine(engines), reports)
    to_stdout = arguments.json == STANDARD_OUTPUT
    # Standard output belongs to the JSON where that was asked for.
    print_table(reports, arguments.bundle.resolve().name, sys.stderr if to_stdout else sys.stdout)
    if to_stdout:
        sys.stdout.write(text)
    if json_file is not None:
        write_report(json_file, text)


def _table_printer() -> TablePrinter:
    try:
        table = import_module("vmoe_bench.table")
    except ImportError as error:
        raise BenchError(
            f"the table needs rich, which can't be loaded ({error}): pip install 'vmoe-export[bench]'"
        ) from None
    printer: TablePrinter = table.print_table
    return printer


def _load_engines(arguments: Arguments, closing: ExitStack) -> list[Engine]:
    """One engine per backend, or per backend and profile where it runs only one; "auto" is the backend it stands for."""
    engines: dict[tuple[str, Profile | None], Engine] = {}
    for name in dict.fromkeys(arguments.backends):
        for profile in _profiles_to_load(arguments, name):
            engine = Engine.load(arguments.bundle, profile, name, arguments.threads)
            engines.setdefault((engine.backend, engine.only_profile), closing.enter_context(engine))
    return list(engines.values())


def _profiles_to_load(arguments: Arguments, backend: str) -> Sequence[str | None]:
    """Names of the profiles that a backend is loaded with; None stands for the bundle's first, or for a dense model."""
    if backend not in BACKENDS or not BACKENDS[backend].one_profile:
        return [None]
    manifest = Bundle.open(arguments.bundle, verify=False).manifest
    exported = manifest.tensorrt.graphs if manifest.tensorrt and manifest.profiles else ()
    return arguments.profiles or list(exported) or [None]


def _images(path: Path | None, points: Sequence[Point]) -> ImageSource:
    manifest = points[0].engine.manifest
    if path is None:
        return synthetic_images(max(point.batch_size for point in points), manifest.input)
    source = open_images(path, manifest.class_names, manifest.outputs if manifest.output == "logits" else None)
    if source.note is not None:
        print(f"{PROGRAM}: {source.note}", file=sys.stderr)
    return source


def _measure(points: Sequence[Point], source: ImageSource, duration: float, threads: int | None) -> list[PointReport]:
    spec = points[0].engine.manifest.input
    batches = {size: source.first_batch(size, spec) for size in {point.batch_size for point in points}}
    qualities = [assess(point, source) for point in points]
    calls = [partial(point.logits, batches[point.batch_size]) for point in points]
    times = time_interleaved(calls, duration)
    return [
        report_point(point, threads, summarize(seconds, point.batch_size), quality)
        for point, seconds, quality in zip(points, times, qualities, strict=True)
    ]
