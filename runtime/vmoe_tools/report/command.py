"""The command `vmoe report`."""

from __future__ import annotations

import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from vmoe_runtime.addresses import without_secrets
from vmoe_runtime.backends import Parallelism
from vmoe_tools import options
from vmoe_tools.bench.sweep import axes_of
from vmoe_tools.charts import write_picture
from vmoe_tools.engines import load_engines
from vmoe_tools.output import check_output_file, people_stream, write_file, write_json
from vmoe_tools.program import printable
from vmoe_tools.report import words
from vmoe_tools.report.collect import Collection
from vmoe_tools.report.page import pictures_of, render_page
from vmoe_tools.report.plan import make_plan
from vmoe_tools.terminal import Progress

_MOST_SAMPLES = 24
_PICTURES = ("accuracy", "patches", "experts")


@click.command(context_settings=options.CONTEXT)
@options.bundles_argument
@options.required_images_option
@options.out_option("PAGE", "The .html file to write.", required=True)
@options.labels_option
@options.compare_option
@options.profile_option
@options.axis_options
@options.backend_option
@options.batch_size_option
@options.threads_option
@options.duration_option
@options.count_option("--samples", most=_MOST_SAMPLES, default=12, help="Number of images to show with their patches.")
@options.max_drop_option(default=0.01)
@options.result_options
def report(bundles: tuple[Path, ...], out: Path, json_target: str | None, quiet: bool, **given: Any) -> None:
    """Measure capacity ratios on your images, and write the result as an HTML page.

    BUNDLE... is one bundle, or several precisions of one model. The first bundle is shown in detail. For each capacity
    ratio, the page shows accuracy, speed, FLOPs and kept pairs. It also shows cascades, sample images with the expert of
    each patch, the load of each expert, and a recommended setting. It is one file that loads nothing else. PNG pictures are
    written next to it.

    By default, the command measures 8 capacity ratios from 0.1 to 2, with all other settings from --profile. If you pass
    several values of another setting (--k 1 --k 2, --bpr --no-bpr), the page has a curve for each combination.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise click.UsageError(f"--out {out} must end in .html")
    if json_target is not None and Path(json_target) == out:
        raise click.UsageError(f"--out and --json are both {out}")
    axes = axes_of(given)
    paths = {name: out.with_name(f"{out.stem}-{name}.png") for name in _PICTURES}
    for target in (json_target, out, *paths.values()):
        check_output_file(target, [*bundles, *given["compared"], given["images"], given["labels"]])
    command = printable(without_secrets(shlex.join(["vmoe", *(click.get_current_context().find_object(list) or ())])))
    names = () if given["profile"] is None else (given["profile"],)
    progress = Progress(sys.stderr, quiet=quiet)
    with ExitStack() as closing:
        parallelism = Parallelism(given["threads"])
        engines = load_engines(bundles, given["compared"], [given["backend"]], names, parallelism, closing)
        plan = make_plan(engines, names, axes, given)
        collected = Collection(plan, given, progress).put_together(command)
        class_names = engines[0].engine.class_names
    page, figures = render_page(collected, class_names), pictures_of(collected, class_names)
    for name, figure in figures.items():
        write_picture(figure, paths[name])
    write_file(out, page)
    found = collected.report
    write_json(json_target, found.record())
    if not quiet:
        text = [*words.opening(found), words.recommendation(found), words.certainty(found), *found.notes]
        stream = people_stream(json_target)
        print(printable(" ".join(sentence for sentence in text if sentence).replace("\u00a0", " ")), file=stream)
        written = [out, *(paths[name] for name in figures)]
        print("Wrote", ", ".join(f"{printable(str(p))} ({p.stat().st_size / 1000:,.0f} kB)" for p in written), file=stream)
