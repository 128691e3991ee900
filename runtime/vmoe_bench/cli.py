"""The command `vmoe-bench`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from vmoe_bench.arguments import PROGRAM, Arguments, parse_arguments
from vmoe_bench.machine import describe_machine
from vmoe_bench.measurement import summarize, time_interleaved
from vmoe_bench.points import Point, plan_points
from vmoe_bench.quality import assess, images_assessed
from vmoe_bench.report import PointReport, report_point, to_json
from vmoe_runtime import Engine
from vmoe_runtime.backends import BACKENDS
from vmoe_runtime.bundle import Bundle
from vmoe_runtime.command_line import CommandError, complain, printable, run_command
from vmoe_runtime.image_source import ImageSource, open_images, synthetic_images
from vmoe_runtime.json_report import check_target, people_stream, write_json
from vmoe_runtime.profiles import Profile

if TYPE_CHECKING:
    from vmoe_bench.display import Progress


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: the arguments without the program's name; default: those of the process.

    Returns:
        The exit code: 0, 2 for a wrong command line, 130 when interrupted, 1 for whatever else goes wrong.
    """
    return run_command(PROGRAM, _bench, argv, no_memory="there is not enough memory; try a smaller --batch-size")


def _bench(argv: Sequence[str]) -> None:
    arguments = parse_arguments(argv)
    # Both before the measurement: nobody should wait for numbers that then can't be shown.
    display = _display()
    check_target(arguments.json, [arguments.bundle, arguments.images])
    with ExitStack() as closing:
        engines = _load_engines(arguments, closing)
        points = plan_points(engines, arguments.profiles, arguments.batch_sizes)
        source = _images(arguments, points)
        progress = display.Progress(sys.stderr, quiet=arguments.quiet)
        reports = _measure(points, source, arguments.duration, arguments.threads, progress)
        report = to_json(describe_machine(engines), reports)
    if not arguments.quiet:
        display.print_table(reports, printable(arguments.bundle.resolve().name), people_stream(arguments.json))
    write_json(arguments.json, report)


def _display() -> ModuleType:
    try:
        return import_module("vmoe_bench.display")
    except ImportError as error:
        raise CommandError(
            f"the table needs rich, which can't be loaded ({error}): pip install 'vmoe-export[bench]'"
        ) from None


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


def _images(arguments: Arguments, points: Sequence[Point]) -> ImageSource:
    manifest = points[0].engine.manifest
    if arguments.images is None:
        return synthetic_images(max(point.batch_size for point in points), manifest.input)
    outputs = manifest.outputs if manifest.output == "logits" else None
    source = open_images(arguments.images, manifest.class_names, outputs)
    if source.note is not None and not arguments.quiet:
        complain(PROGRAM, source.note)
    return source


def _measure(
    points: Sequence[Point], source: ImageSource, duration: float, threads: int | None, progress: Progress
) -> list[PointReport]:
    spec = points[0].engine.manifest.input
    batches = {size: source.first_batch(size, spec) for size in {point.batch_size for point in points}}
    whole = sum(images_assessed(point, source) for point in points)
    with progress.step("kept pairs and top-1", whole) as advance:
        qualities = [assess(point, source, after_batch=lambda images: advance(images, images)) for point in points]
    calls = [partial(point.logits, batches[point.batch_size]) for point in points]
    per_round = sum(point.batch_size for point in points)
    with progress.step("speed", duration) as advance:
        times = time_interleaved(calls, duration, after_round=lambda seconds: advance(seconds, per_round))
    return [
        report_point(point, threads, summarize(seconds, point.batch_size), quality)
        for point, seconds, quality in zip(points, times, qualities, strict=True)
    ]
