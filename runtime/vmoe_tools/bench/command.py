"""The command `vmoe bench`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import click

from vmoe_measure.image_source import ImageSource, open_images, synthetic_images
from vmoe_runtime.backends import Parallelism
from vmoe_runtime.bundle.manifest import MERGING_GRAPH, WEIGHTS_NAME
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing import Array
from vmoe_runtime.settings import MERGE
from vmoe_tools import options
from vmoe_tools.bench.bundle_profiles import add_profile
from vmoe_tools.bench.closeness import keep_outputs, recommend_bundle, with_closeness
from vmoe_tools.bench.display import print_recommendation, print_results
from vmoe_tools.bench.measurement import Measured, measure
from vmoe_tools.bench.planned_points import Point, named_profiles, plan_points, recommendable, without_accuracy
from vmoe_tools.bench.point_result import PointResult, csv_text, recommend
from vmoe_tools.bench.sweep import Axes, axes_of, sweep_profiles
from vmoe_tools.bench.tuned import TunedPoints, print_tuned, tune, tuned_content
from vmoe_tools.engines import LoadedBundle, describe_machine, load_engines
from vmoe_tools.output import check_drawing, check_output_file, people_stream, write_file, write_json
from vmoe_tools.program import ADDRESSES, complain, printable
from vmoe_tools.terminal import Progress

_MIN_AGREEMENT = 0.99


@click.command(context_settings=options.CONTEXT)
@options.bundles_argument
@options.compare_option
@options.profiles_option
@options.axis_options
@click.option(
    "--cascade",
    is_flag=True,
    help="Also measure cascades: a cheap setting first, and the most accurate one for images with low confidence. The "
    "threshold is cross-validated: calibrated on one half of the images, tested on the other.",
)
@click.option(
    "--tune",
    is_flag=True,
    help="Search all settings, and cascades, for the fewest FLOPs within --max-drop-in-accuracy of the full setting, or of "
    "--profile, on one half of the images. The other half tests the result.",
)
@options.backends_option
@options.batch_sizes_option
@options.count_option(
    "--concurrency",
    "concurrencies",
    most=1024,
    multiple=True,
    help="Concurrent calls of one loaded engine, each from its own thread. Repeatable. Default: --streams, or 1.",
)
@options.threads_option
@options.count_option(
    "--streams",
    most=1024,
    help="Calls that the backend runs concurrently, each on its own threads; for openvino. Default: the backend's choice.",
)
@options.duration_option
@options.images_option
@options.labels_option
@options.max_drop_option(default=None)
@click.option(
    "--target-latency",
    "target_ms",
    metavar="MS",
    type=options.FiniteRange(0, min_open=True),
    help="Recommend the most accurate setting with a median latency of at most MS; with --max-drop-in-accuracy, both limits "
    "apply.",
)
@click.option(
    "--min-agreement",
    metavar="X",
    type=options.Share(0, 100),
    help="With several bundles, recommend the fastest that agrees with the most exact one on at least X of the images. "
    "Default: 99%.",
)
@click.option("--add-profile", is_flag=True, help="Write the recommended setting into the bundle as a profile.")
@click.option(
    "--csv",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Also write the numbers as CSV; - writes them to standard output, and the text to standard error.",
)
@click.option(
    "--plot",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Also draw accuracy against capacity, FLOPs and time; a .png, .svg or .pdf file.",
)
@options.result_options
def bench(bundles: tuple[Path, ...], compared: tuple[Path, ...], **given: Any) -> None:
    """Measure bundles: accuracy, speed, FLOPs, and the share of (token, choice) pairs that the routing keeps.

    BUNDLE... is one bundle, or several precisions of one model. All combinations of bundle, profile, backend and batch size
    are timed in turns, so that their times can be compared. --sweep and the setting options define the profiles. All other
    settings come from --profile, or from the first stored profile. With several bundles, the command compares their outputs
    with those of the most exact one, and recommends a bundle. Without --images, it uses random images, which are the same
    in every run. Ctrl-C ends the measurement and prints the results so far.
    """
    axes = axes_of(given)
    _check(bundles, axes, given | {"compared": compared})
    used = [*bundles, *compared, given["images"], given["labels"]]
    for target in (given["json_target"], given["csv"]):
        check_output_file(target, used)
    check_drawing(given["plot"], "--plot", used)
    quiet, json_target = given["quiet"], given["json_target"]
    stream, progress = people_stream(json_target, given["csv"]), Progress(sys.stderr, quiet=quiet)
    with ExitStack() as closing:
        parallelism = Parallelism(given["threads"], given["streams"])
        engines = load_engines(
            bundles, compared, given["backends"] or ["auto"], given["profiles"], parallelism, closing,
            same_images=given["images"] is not None,
        )  # fmt: skip
        profiles, notes = zip(*(_profiles_of(loaded, given["profiles"], axes) for loaded in engines), strict=True)
        concurrencies = given["concurrencies"] or (given["streams"] or 1,)
        points = plan_points(engines, profiles, given["batch_sizes"], concurrencies)
        for note in dict.fromkeys(chain(*notes)) if not quiet else ():
            complain(note)
        source = _images(points, given)
        _check_drawable(points, source, given["plot"])
        unmerged = given["add_profile"] and MERGING_GRAPH not in points[0].engine.manifest.files
        if unmerged:
            _check_unmerged(bundles[0], points)
        tuned = None
        if given["tune"]:
            from_first = bool(given["profiles"])
            tuned = tune(points[0], source, given["max_drop"], progress, from_first=from_first, unmerged=unmerged)
            if unmerged and MERGE in points[0].engine.manifest.rules.settings and not quiet:
                complain(f"--tune: {bundles[0]} was exported without --merge, so no setting that merges tokens is tried")
            points, source = tuned.points, tuned.test
        cascades = given["cascade"] if tuned is None else tuned.cascades
        outputs: list[list[Array]] = [[] for _ in points] if len(bundles) > 1 else []
        observers = [partial(keep_outputs, batches) for batches in outputs]
        measured = measure(points, source, given["duration"], progress, observers, cascades=cascades)
        machine = describe_machine(engines)
    if measured.interrupt and not measured.points:
        raise measured.interrupt
    if outputs and not measured.interrupt:
        measured.points = with_closeness(measured.points, points, outputs)
    everything = [*measured.points, *measured.cascades]
    content: dict[str, Any] = {"machine": machine, "points": [point.record() for point in measured.points]}
    if not quiet:
        print_results(everything, engines, stream)
    equal = _conclude(measured, points, tuned, given | {"bundle": bundles[0], "several": len(bundles) > 1}, content)
    if measured.interrupt:
        content["interrupted"] = True
    write_json(json_target, content)
    _write_files(everything, given)
    if measured.interrupt:
        complain("the measurement is incomplete: the results so far are shown, and no setting is recommended")
        raise measured.interrupt
    if given["add_profile"] and equal:
        _add(bundles[0], points[equal[0]].profile, quiet=quiet)


def _write_files(results: Sequence[PointResult], given: dict[str, Any]) -> None:
    if given["csv"] is not None:
        write_file(given["csv"], csv_text(results))
    if given["plot"] is not None:
        from vmoe_tools.charts import overview, write_picture

        write_picture(overview(results), given["plot"])


def _conclude(
    measured: Measured, points: Sequence[Point], tuned: TunedPoints | None, given: dict[str, Any], content: dict[str, Any]
) -> list[int]:
    """Add the cascades and the recommended setting to `content`, and print the recommendation.

    `content` is the data of the JSON output.

    Returns:
        Indices of equally good settings, the recommended one first; empty if no setting is to be recommended.
    """
    quiet, stream, complete = given["quiet"], people_stream(given["json_target"], given["csv"]), not measured.interrupt
    if given["cascade"] or tuned:
        content["cascades"] = [cascade.record() for cascade in measured.cascades]
    if given["cascade"] and not measured.cascades and complete and not quiet:
        complain("--cascade: no setting that can be the first step is cheaper than the most accurate one")
    if complete and given["several"] and not _limits(given):
        sizes = {point.loaded.name: point.engine.manifest.files[WEIGHTS_NAME].size for point in points}
        content["recommended"], sentence = recommend_bundle(measured.points, sizes, given["min_agreement"] or _MIN_AGREEMENT)
        if not quiet:
            print(printable(sentence), file=stream)
    if not _limits(given) or not complete:
        return []
    if tuned:
        equal = [tuned.single]
        content["tuned"] = tuned_content(tuned, measured.points, measured.cascades)
    else:
        equal = recommend(measured.points, recommendable(points), given["max_drop"], given["target_ms"])
    content |= {"recommended": equal[0], "equally_fast": equal}
    if not quiet and tuned:
        print_tuned(content["tuned"], given["bundle"], stream)
    elif not quiet:
        print_recommendation(measured.points, equal, stream)
    return equal


def _limits(given: dict[str, Any]) -> bool:
    """Return whether the user set a limit on accuracy or latency. With such a limit, a setting is recommended."""
    return given["max_drop"] is not None or given["target_ms"] is not None


def _check(bundles: Sequence[Path], axes: Axes, given: dict[str, Any]) -> None:
    """Refuse options that can't be combined, or that need another option."""
    if axes and len(given["profiles"]) > 1:
        raise click.UsageError("a sweep starts from one profile, and --profile names several")
    if given["min_agreement"] is not None and (len(bundles) < 2 or _limits(given)):
        raise click.UsageError("--min-agreement chooses among several bundles, without another limit")
    if given["add_profile"]:
        _check_addable(bundles, given)
    if given["tune"]:
        several = any(len(named) > 1 for named in (bundles, given["profiles"], given["backends"], given["batch_sizes"]))
        if given["compared"]:
            raise click.UsageError("--tune measures one bundle alone: --compare another one with what --add-profile wrote")
        if several or axes or given["cascade"] or given["target_ms"] is not None:
            raise click.UsageError("--tune chooses the settings of one bundle itself, on one backend and at one batch size")
        if given["max_drop"] is None:
            raise click.UsageError("--tune needs a limit on the loss of accuracy: --max-drop-in-accuracy 0.5%")
    if given["images"] is None:
        for option, why in (
            ("tune", "chooses a setting on images"),
            ("cascade", "calibrates a margin on images"),
            ("labels", "labels the pictures of a folder"),
        ):
            if given[option]:
                raise click.UsageError(f"--{option} {why}; add --images NPZ|DIR")
        if _limits(given):
            raise click.UsageError("a recommendation needs images with labels: --images NPZ|DIR")


def _check_addable(bundles: Sequence[Path], given: dict[str, Any]) -> None:
    """Refuse --add-profile if no setting will be recommended, or if there isn't exactly one writable bundle."""
    if not _limits(given):
        raise click.UsageError("--add-profile writes a recommended setting: add --max-drop-in-accuracy or --target-latency")
    if len(bundles) > 1:
        raise click.UsageError("--add-profile writes into one bundle, and there are several")
    if str(bundles[0]) in ADDRESSES:
        raise click.UsageError("--add-profile writes into the bundle, but can't write to an address; copy the bundle first")
    if bundles[0].is_dir() and not os.access(bundles[0], os.W_OK):
        raise click.UsageError(f"--add-profile writes into the bundle, and {bundles[0]} is read-only")


def _check_unmerged(bundle: Path, points: Sequence[Point]) -> None:
    """Refuse to add settings that merge tokens to `bundle`, which was exported without --merge."""
    merging = [point.profile.name for point in points if point.profile is not None and point.profile.merge]
    if merging:
        raise click.UsageError(
            f"--add-profile adds no setting that merges tokens, such as {merging[0]}, to a bundle that was exported without "
            f"--merge, as {bundle} was; export it again with --merge R"
        )


def _profiles_of(loaded: LoadedBundle, names: Sequence[str], axes: Axes) -> tuple[Sequence[Profile | None], list[str]]:
    """Return the profiles at which to measure an engine, and notes on profiles that are left out.

    A bundle that is loaded only for comparison is measured at its first profile.
    """
    if loaded.compared:
        return named_profiles(loaded.engine, ())[:1], []
    named = named_profiles(loaded.engine, names)
    return sweep_profiles(loaded.engine.manifest.rules, named[0], axes) if axes else (named, [])


def _images(points: Sequence[Point], given: dict[str, Any]) -> ImageSource:
    manifest, path = points[0].engine.manifest, given["images"]
    if path is None:
        specs = dict.fromkeys(point.engine.manifest.input for point in points)
        return synthetic_images(max(point.batch_size for point in points), *specs)
    outputs = manifest.outputs if manifest.output == "logits" else None
    source = open_images(path, manifest.class_names, outputs, given["labels"])
    if _limits(given) and not given["tune"] and source.labels is None:
        why = f": {source.note}" if source.note else ""
        raise click.UsageError(f"a recommendation needs labels, and {path} has none{why}")
    if given["cascade"] and any(len(source) < 2 * point.batch_size for point in points):
        raise click.UsageError(
            f"--cascade calibrates its margin on some batches and tests it on the others, but {path} has only "
            f"{len(source)} images, fewer than two batches"
        )
    for note in (source.note, *(without_accuracy(points) if source.labels is not None else ())):
        if note is not None and not given["quiet"]:
            complain(note)
    return source


def _check_drawable(points: Sequence[Point], source: ImageSource, plot: Path | None) -> None:
    """Refuse a chart that would be empty."""
    kinds = {point.engine.manifest.rules.kind for point in points}
    if plot is not None and source.labels is None and kinds <= {"dense", "soft"}:
        raise click.UsageError("--plot draws accuracy or kept pairs, and this model has no pairs: add --images with labels")


def _add(bundle: Path, profile: Profile | None, *, quiet: bool) -> None:
    if profile is None:
        raise click.ClickException(f"{bundle} has no profiles to add to")
    added = add_profile(bundle, profile)
    if not quiet:
        state = "was added to" if added else "is already a profile of"
        click.echo(f"{profile.name} {state} {bundle}", err=True)
