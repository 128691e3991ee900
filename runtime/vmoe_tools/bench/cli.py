"""The command `vmoe-bench`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from vmoe_measure.image_source import ImageSource, open_images, synthetic_images
from vmoe_runtime import Engine
from vmoe_runtime.profiles import Profile
from vmoe_tools.bench.arguments import PROGRAM, Arguments, parse_arguments
from vmoe_tools.bench.bundle_profiles import add_profile
from vmoe_tools.bench.choice import mark_front, recommend
from vmoe_tools.bench.loading import MeasuredEngine, load_engines
from vmoe_tools.bench.machine import describe_machine
from vmoe_tools.bench.points import Point, named_profiles, plan_points
from vmoe_tools.bench.report import report_json, write_csv
from vmoe_tools.bench.run import measure
from vmoe_tools.bench.sweep import sweep_profiles
from vmoe_tools.command_line import (
    INTERRUPTED,
    CommandError,
    UsageError,
    check_output_file,
    complain,
    load_extra,
    people_stream,
    run_command,
    write_file,
    write_json,
)

_MISSING = ", which can't be loaded ({}): pip install 'vmoe-export[bench]'"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: the arguments without the program's name; default: those of the process.

    Returns:
        The exit code: 0, 2 for a wrong command line, 130 when interrupted, 1 for whatever else goes wrong.
    """
    return run_command(PROGRAM, _bench, argv, no_memory="there is not enough memory; try a smaller --batch-size")


def _bench(argv: Sequence[str]) -> int:
    arguments = parse_arguments(argv)
    # All before the measurement: nobody should wait for numbers that then can't be shown.
    display = load_extra("vmoe_tools.bench.display", f"the table needs rich{_MISSING}")
    plot = load_extra("vmoe_tools.bench.plot", f"--plot needs matplotlib{_MISSING}") if arguments.plot else None
    used = [*arguments.bundles, *arguments.compared, arguments.images, arguments.labels]
    for target in (arguments.json, arguments.csv, arguments.plot):
        check_output_file(None if target is None else str(target), used)
    with ExitStack() as closing:
        engines = load_engines(
            arguments.bundles, arguments.compared, arguments.backends, arguments.profiles, arguments.parallelism, closing
        )
        points = plan_points(engines, _profiles_of(arguments, engines), arguments.batch_sizes, arguments.concurrencies)
        source = _images(arguments, points)
        progress = display.Progress(sys.stderr, quiet=arguments.quiet)
        measured = measure(points, source, arguments.duration, progress, cascades=arguments.cascade)
        machine = describe_machine(engines)
    if not measured.reports:
        raise KeyboardInterrupt
    everything = mark_front([*measured.reports, *measured.cascades])
    reports, cascades = everything[: len(measured.reports)], everything[len(measured.reports) :]
    stream = people_stream(arguments.json)
    if not arguments.quiet:
        display.print_table(everything, engines, stream)
        if arguments.cascade and not cascades and not measured.interrupted:
            complain(
                PROGRAM, "--cascade: no setting that can be the first of two steps is cheaper than the most accurate one"
            )
    chosen = None
    if arguments.wish is not None and not measured.interrupted:
        asked = [report for report, point in zip(reports, points, strict=True) if not point.loaded.compared]
        chosen = recommend(asked, arguments.wish)
    if chosen is not None and not arguments.quiet:
        display.print_recommendation(chosen, stream)
    more: dict[str, object] = {"interrupted": True} if measured.interrupted else {}
    if arguments.cascade:
        more["cascades"] = [asdict(cascade) for cascade in cascades]
    place = next((index for index, report in enumerate(reports) if report is chosen), None)
    if place is not None:
        more["recommended"] = place
    write_json(arguments.json, report_json(machine, reports, **more))
    if arguments.csv is not None:
        write_file(arguments.csv, lambda file: write_csv(everything, file))
    if plot is not None:
        plot.draw(everything, arguments.plot)
    if measured.interrupted:
        complain(PROGRAM, "interrupted; what was measured by then is shown, and no setting is recommended")
        return INTERRUPTED
    if arguments.add_profile and place is not None:
        _add(arguments.bundles[0], points[place].profile, quiet=arguments.quiet)
    return 0


def _profiles_of(arguments: Arguments, engines: Sequence[MeasuredEngine]) -> Callable[[Engine], Sequence[Profile | None]]:
    """The profiles that each engine is measured at; those of bundles to compare with are the stored ones."""
    compared = {id(loaded.engine) for loaded in engines if loaded.compared}
    noted = set()

    def profiles(engine: Engine) -> Sequence[Profile | None]:
        if id(engine) in compared:
            return named_profiles(engine, ())
        asked = named_profiles(engine, arguments.profiles)
        if arguments.sweep is None:
            return asked
        found, notes = sweep_profiles(engine.manifest.rules, asked[0], arguments.sweep)
        for note in notes:
            if note not in noted and not arguments.quiet:
                complain(PROGRAM, note)
            noted.add(note)
        return found

    return profiles


def _images(arguments: Arguments, points: Sequence[Point]) -> ImageSource:
    manifest = points[0].engine.manifest
    if arguments.images is None:
        return synthetic_images(max(point.batch_size for point in points), manifest.input)
    outputs = manifest.outputs if manifest.output == "logits" else None
    source = open_images(arguments.images, manifest.class_names, outputs, arguments.labels)
    if arguments.wish is not None and source.labels is None:
        why = f": {source.note}" if source.note else ""
        raise UsageError(f"a recommendation needs labels, and {arguments.images} has none{why}")
    if arguments.cascade and any(len(source) < 2 * point.batch_size for point in points):
        raise UsageError(
            f"--cascade finds its margin on some batches and tries it on the others, and {arguments.images} has only "
            f"{len(source)} images, not two batches"
        )
    if source.note is not None and not arguments.quiet:
        complain(PROGRAM, source.note)
    return source


def _add(bundle: Path, profile: Profile | None, *, quiet: bool) -> None:
    if profile is None:
        raise CommandError(f"{bundle} has no profiles to add to")
    added = add_profile(bundle, profile)
    if not quiet:
        state = "was added to" if added else "is already a profile of"
        print(f"{profile.name} {state} {bundle}", file=sys.stderr)
