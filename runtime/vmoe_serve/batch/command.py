"""The command `vmoe serve batch`, which runs a model on many pictures as a batch job.

If an earlier run of the job was stopped, the command resumes the job.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import pyarrow as pa

from vmoe_runtime.backends import Parallelism
from vmoe_runtime.bundle.manifest import Manifest
from vmoe_runtime.pictures import check_takes_pictures
from vmoe_serve.batch.addresses import Location
from vmoe_serve.batch.inputs import InputFile, Part, digest_of, divide, list_files
from vmoe_serve.batch.job import Job, Output, Written, manifest_digest
from vmoe_serve.batch.part_files import PART_FORMATS
from vmoe_serve.levels import served_manifest
from vmoe_tools import options
from vmoe_tools.output import STANDARD_OUTPUT, WAIT_SECONDS, check_output_file, people_stream, regular_lines, write_json

_USUAL_TOP = 5
_LINE_SECONDS = WAIT_SECONDS / 4  # time between two progress lines, which report the number of pictures


@click.command(context_settings=options.CONTEXT)
@options.bundle_argument
@click.argument("source", metavar="INPUT")
@click.argument("target", metavar="OUTPUT")
@click.option("--column", metavar="C", help="Column of Parquet files with the pictures' bytes, or structs with 'bytes'.")
@options.profile_option
@options.count_option("--top", most=1 << 24, help=f"Classes per picture. Default: {_USUAL_TOP}.")
@click.option("--output-logits", is_flag=True, help="Write the model's output, and no classes.")
@click.option(
    "--format",
    type=click.Choice(list(PART_FORMATS)),
    default=next(iter(PART_FORMATS)),
    show_default=True,
    help="Format of the output files. CSV has a column for each class of a picture: class_1, class_2, ...",
)
@options.count_option(
    "--part-size",
    most=1 << 24,
    default=1024,
    help="Pictures per output file. A job that is stopped loses at most that many.",
)
@options.count_option("--batch-size", most=4096, default=8, help="Images per call.")
@options.count_option(
    "--replicas",
    most=9999,
    default=1,
    help="Worker processes; each has an engine, and uses --threads of Ray's CPUs, or one.",
)
@options.threads_option
@options.backend_option
@click.option("--force", is_flag=True, help="If OUTPUT holds parts of another job, delete them and start over.")
@click.option("--redo-errors", is_flag=True, help="Process parts with errors again.")
@click.option("--strict", is_flag=True, help="Process all pictures, but exit with 1 if one can't be read.")
@options.json_option
@options.quiet_option
@options.verbose_option
def batch(bundle: Path, source: str, target: str, json_target: str | None, **given: Any) -> int:
    """Classify all pictures of a folder or of Parquet files with Ray Data.

    INPUT is a folder of pictures. With --column, it is a Parquet file or a folder of Parquet files. OUTPUT becomes a folder
    of Parquet or CSV files. INPUT and OUTPUT can be paths, or URIs such as s3://bucket/folder. The job runs on this machine,
    or on the Ray cluster that RAY_ADDRESS names. If it is stopped or killed, run the same command again to resume it.
    """
    check_output_file(json_target, [bundle, Path(source)])
    where, place = Location.of(source), Location.of(target)
    for other in (where, Location.of(str(bundle))):
        if place.overlaps(other):
            raise click.ClickException(f"{target} can't be the output: it is, has or lies in {other.text}")
    if json_target not in (None, STANDARD_OUTPUT) and place.overlaps(Location.of(str(json_target))):
        raise click.UsageError(f"{json_target} can't be written: {target} holds only the files of the job")
    if not os.environ.get("RAY_ADDRESS"):
        Parallelism(given["threads"]).checked()  # with too few CPUs for these threads, Ray would wait forever
    manifest = served_manifest(bundle)
    digest = manifest_digest(bundle)  # computed before the input is listed, because listing may take minutes
    check_takes_pictures(manifest.input.channels)
    files = list_files(where, given["column"])
    job = _job(manifest, digest, files, bundle, given)
    parts = divide(files, given["part_size"])
    output = Output(place, job, min(job.top, manifest.outputs) if job.top else math.prod(manifest.output_shape))
    output.begin(force=given["force"])
    kept = [each for each in output.parts(parts) if not (given["redo_errors"] and each.errors)]
    start = time.monotonic()
    done = {each.part.number for each in kept}
    written = _process(bundle, where, output, job, [part for part in parts if part.number not in done], given)
    summary = _summary(job, [*kept, *written])
    if written or not output.is_finished():
        output.finish(summary)
    seconds = time.monotonic() - start
    write_json(json_target, {**summary, "kept_parts": len(kept), "seconds": round(seconds, 3)})
    if summary["errors"] and (given["strict"] or not given["quiet"]):
        wrong = _counted(summary["errors"], "picture")
        click.echo(f"vmoe: {wrong} can't be answered; the column 'error' says why", err=True)
    if not given["quiet"]:
        how = f"{len(kept):,} were there already" + (f", the others took {seconds:,.1f} s" if written else "")
        pictures, in_parts = _counted(summary["pictures"], "picture"), _counted(summary["parts"], "part")
        click.echo(f"{pictures} in {in_parts}; {how}", people_stream(json_target))
    return 1 if given["strict"] and summary["errors"] else 0


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _job(manifest: Manifest, digest: str, files: Sequence[InputFile], bundle: Path, given: dict[str, Any]) -> Job:
    logits = given["output_logits"]
    if logits and given["top"]:
        raise click.UsageError("--top is the number of classes, and --output-logits writes none")
    if not logits and manifest.output != "logits":
        raise click.UsageError(f"{bundle} outputs {manifest.output}, not classes; write them with --output-logits")
    if logits and len(manifest.answers) > 1:
        raise click.UsageError(
            f"{bundle} outputs {', '.join(manifest.answers)}, and a job writes one; export it without --layers"
        )
    name = given["profile"]
    return Job(
        bundle=digest,
        input=digest_of(files),
        pictures=sum(file.rows for file in files),
        column=given["column"],
        setting=manifest.profile_named(name).name if name else next(iter(manifest.profiles), None),
        backend=given["backend"],
        output=manifest.output if logits else None,
        top=None if logits else given["top"] or _USUAL_TOP,
        part_size=given["part_size"],
        format=given["format"],
    )


def _process(
    bundle: Path, source: Location, output: Output, job: Job, parts: Sequence[Part], given: dict[str, Any]
) -> list[Written]:
    """Run the model on the pictures of the parts that are not yet written, and write the results."""
    if not parts:
        return []
    from vmoe_serve.batch.pipeline import answered_parts
    from vmoe_serve.ray_session import connected_ray, silenced, told_if_ended

    output.unfinish()
    written: list[Written] = []
    replicas, threads = given["replicas"], given["threads"]
    cpus, pictures = threads or 1, sum(part.rows for part in parts)
    arguments = (job, bundle.resolve(), given["batch_size"], threads)
    start, awaited = time.monotonic(), "Ray's own processes"
    answered: list[tuple[float, int]] = []  # (time in seconds, number of pictures with a result at this time)

    def after_block(count: int) -> None:
        answered.append((time.monotonic(), count + (answered[-1][1] if answered else 0)))

    def line() -> str:
        if answered:
            return _progress(pictures, answered[0], answered[-1])
        return f"vmoe: waiting for {awaited}" if time.monotonic() - start > WAIT_SECONDS else ""

    try:
        with (
            told_if_ended(),
            silenced() as messages,
            regular_lines(line, messages, quiet=given["quiet"], seconds=_LINE_SECONDS),
            connected_ray(replicas * cpus + 1, object_store=1 << 29),
        ):
            awaited = f"the first answers (replicas that load the bundle: {replicas})"
            for part, table in answered_parts(source, job.column, parts, replicas, cpus, arguments, after_block):
                written.append(_write(output, job, part, table))
    except KeyboardInterrupt:
        missing = len(parts) - len(written)
        are = "part is" if missing == 1 else "parts are"
        click.echo(f"{missing:,} {are} missing; run the same command again to resume", err=True)
        raise
    return written


def _progress(pictures: int, first: tuple[float, int], last: tuple[float, int]) -> str:
    """Return a progress line: the number of finished pictures, the rate, and the time that the rest will take.

    `first` and `last` are the first and the latest measurement. Each is a time in seconds, and the number of pictures that
    were finished by then.

    Examples:
        >>> _progress(1000, (20.0, 64), (20.0, 64))
        '64 of 1,000 pictures'
        >>> _progress(1000, (20.0, 64), (22.0, 128))
        '128 of 1,000 pictures, 32.0 a second, 0:00:27 left'
    """
    text = f"{last[1]:,} of {pictures:,} pictures"
    if last[1] == first[1]:  # no rate yet: it is measured from the first results on, so that it leaves out Ray's start
        return text
    rate = (last[1] - first[1]) / (last[0] - first[0])
    return f"{text}, {rate:,.1f} a second, {timedelta(seconds=round((pictures - last[1]) / rate))} left"


def _write(output: Output, job: Job, part: Part, answers: Any) -> Written:
    """Write the results of a part, with columns that identify the pictures."""
    columns: dict[str, Any] = {
        "row": pa.array(range(part.first, part.first + part.rows), pa.int64()),
        "path": [file.name for file in part.files for _ in range(file.rows)],
    }
    if job.column is not None:
        columns["file_row"] = pa.array([row for file in part.files for row in range(file.rows)], pa.int64())
    columns |= {field.name: answers[field.name] for field in job.answer_fields}
    columns |= {"error": answers["error"], "setting": pa.array([job.setting] * part.rows, pa.string())}
    runtimes = tuple(sorted(answers["runtime"].unique().to_pylist()))
    written = Written(part, part.rows - answers["error"].null_count, runtimes)
    output.write(part, pa.table(columns), written)
    return written


def _summary(job: Job, written: Sequence[Written]) -> dict[str, Any]:
    errors = sum(each.errors for each in written)
    return {
        **asdict(job),
        "answered": job.pictures - errors,
        "errors": errors,
        "parts": len(written),
        "runtimes": sorted({runtime for each in written for runtime in each.runtimes}),
    }
