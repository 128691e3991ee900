"""`vmoe-serve batch`: checks what was asked for, goes on where an earlier run stopped, and says what was done."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vmoe_runtime.bundle.manifest import Manifest
from vmoe_runtime.bundle.reader import Bundle, while_unchanged
from vmoe_runtime.pictures import check_takes_pictures
from vmoe_runtime.whole_files import real_path
from vmoe_serve.batch.arguments import PROGRAM, Arguments
from vmoe_serve.batch.job import Job, Shard, missing
from vmoe_serve.batch.output import begin, finish, locked, unfinish
from vmoe_serve.batch.pictures import Pictures, open_pictures
from vmoe_serve.batch.progress import Progress
from vmoe_serve.batch.run import write_shards
from vmoe_serve.batch.shards import ShardError, Written, read_shard
from vmoe_serve.batch.worker import WorkerPlan, manifest_digest
from vmoe_serve.ray_session import connected_ray, signals_handled, silenced
from vmoe_serve.settings import check_served, named
from vmoe_tools.command_line import (
    FAILURE,
    STANDARD_OUTPUT,
    CommandError,
    check_output_file,
    complain,
    people_stream,
    write_json,
)


@dataclass(frozen=True)
class Summary:
    """What a finished job has written.

    Attributes:
        job: SHA-256 (hex) of the job's description.
        pictures: of the input; each is one row.
        answered, errors: how many have an answer, and how many an error instead.
        shards: files.
        runtimes: what answered, in words; several where the runs of a job were on different machines.
    """

    job: str
    pictures: int
    answered: int
    errors: int
    shards: int
    runtimes: list[str]


class _StoppedError(KeyboardInterrupt):
    """Ctrl-C or SIGTERM. No Exception: what Ray does with those must not concern it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.left: list[Shard] = []  # shards that weren't finished, as far as that is known


def run(arguments: Arguments) -> int:
    """Runs the subcommand.

    Returns:
        The exit code: 0; 1 where --strict was given and pictures can't be read; 130 and 143 after Ctrl-C and SIGTERM.

    Raises:
        VmoeError, OSError: it can't be done; shards that are finished stay.
    """
    try:
        with signals_handled(_stop):
            return _run(arguments)
    except (_StoppedError, SystemExit) as stopped:
        # Ray ends the process in this way where SIGTERM comes while it is started.
        number, left = (stopped.number, stopped.left) if isinstance(stopped, _StoppedError) else (signal.SIGTERM, [])
        where = f": {len(left):,} are missing, {left[0].name} is the first" if left else ""
        complain(PROGRAM, f"stopped; finished shards stay, and the same command goes on from there{where}")
        return 128 + number


def _run(arguments: Arguments) -> int:
    _check_paths(arguments)
    manifest, digest = while_unchanged(lambda: _bundle(arguments))
    pictures = open_pictures(arguments.input, arguments.column)
    job = Job(
        bundle=digest,
        input=pictures.digest,
        pictures=len(pictures),
        column=arguments.column,
        setting=_setting(manifest, arguments),
        backend=arguments.backend,
        output=None if arguments.top else manifest.output,
        top=arguments.top,
        shard_size=arguments.shard_size,
    )

    def note(sentence: str) -> None:
        if not arguments.quiet:
            complain(PROGRAM, sentence)

    with locked(arguments.output):
        if shards := begin(arguments.output, job, force=arguments.force, say=note):
            note(f"checking the shards that are there already, {shards:,} of {len(job.shards):,}")
        kept = list(_finished(arguments, job, pictures))
        computed, seconds = _compute(arguments, job, pictures, kept)
        if lost := missing(job.shards, [each.shard for each in (*kept, *computed)]):
            raise CommandError(f"Ray has lost {len(lost)} shards; the same command writes them")
        summary = _summary(job, [*kept, *computed])
        finish(arguments.output, job, asdict(summary))
    write_json(arguments.json, {**asdict(summary), "kept_shards": len(kept), "seconds": round(seconds, 3)})
    _say(arguments, summary, len(kept), seconds)
    return FAILURE if arguments.strict and summary.errors else 0


def _check_paths(arguments: Arguments) -> None:
    check_output_file(arguments.json, [arguments.bundle, arguments.input])
    output, source, bundle = map(real_path, (arguments.output, arguments.input, arguments.bundle))
    for other, what in ((source, "input"), (bundle, "bundle")):
        if output == other or output in other.parents or other in output.parents:
            raise CommandError(f"{arguments.output} is no place for the output: it is, has or lies in the {what}")
    if arguments.json not in (None, STANDARD_OUTPUT) and output in real_path(Path(arguments.json)).parents:
        raise CommandError(f"{arguments.json} can't be written: {arguments.output} is for shards alone")


def _bundle(arguments: Arguments) -> tuple[Manifest, str]:
    """The manifest of a bundle whose every byte was checked, and the SHA-256 of it."""
    with Bundle.open(arguments.bundle) as bundle:
        bundle.verify_weights()
        check_served(bundle.manifest, arguments.bundle)
        check_takes_pictures(bundle.manifest.input.channels)
        return bundle.manifest, manifest_digest(bundle.path)


def _setting(manifest: Manifest, arguments: Arguments) -> str | None:
    if arguments.top and manifest.output != "logits":
        raise CommandError(f"{arguments.bundle} puts out {manifest.output}, no classes: --output-logits writes them")
    if arguments.profile is not None:
        return named(manifest, arguments.profile).name
    return next(iter(manifest.profiles), None)


def _finished(arguments: Arguments, job: Job, pictures: Pictures) -> Iterator[Written]:
    """The shards that are there, whole and not to be done again; a damaged one is named, and counts as missing."""
    for shard in job.shards:
        try:
            written = read_shard(arguments.output, job, shard, pictures.part(shard.first, shard.stop))
            if not (arguments.redo_errors and written.errors):
                yield written
        except FileNotFoundError:
            continue
        except ShardError as error:
            if not arguments.quiet:
                complain(PROGRAM, f"{error}; it is written again")


def _compute(arguments: Arguments, job: Job, pictures: Pictures, kept: Sequence[Written]) -> tuple[list[Written], float]:
    """Writes the shards that are missing: they, and the seconds that it took."""
    shards = missing(job.shards, [each.shard for each in kept])
    if not shards:
        return [], 0.0
    unfinish(arguments.output)
    bundle, source, output = map(real_path, (arguments.bundle, arguments.input, arguments.output))
    plan = WorkerPlan(job, bundle, source, output, arguments.batch, arguments.threads)
    written: list[Written] = []
    replaced = {shard for shard in shards if (output / shard.name).exists()}  # damaged, or to be done again
    # Ray lends so many CPUs, and the operating system shares out those that there are.
    cpus = arguments.replicas * (arguments.threads or 1) + 1
    try:
        with silenced() as stream, connected_ray(cpus), signals_handled(_stop):
            start = time.monotonic()
            progress = Progress(stream, job.pictures, job.pictures - _count(shards), quiet=arguments.quiet)
            try:
                for done in write_shards(plan, pictures, shards, arguments.replicas):
                    written.append(done)
                    progress.advance(_count([done.shard]))
            finally:
                progress.end()
            return written, time.monotonic() - start
    except _StoppedError as stopped:
        # Ray hands on what replicas have written later than they write it, and maybe never.
        left = missing(shards, [each.shard for each in written])
        stopped.left = [shard for shard in left if shard in replaced or not (output / shard.name).exists()]
        raise


def _count(shards: Sequence[Shard]) -> int:
    return sum(shard.stop - shard.first for shard in shards)


def _summary(job: Job, written: Sequence[Written]) -> Summary:
    errors = sum(each.errors for each in written)
    runtimes = sorted({each.runtime for each in written})
    return Summary(job.digest, job.pictures, job.pictures - errors, errors, len(written), runtimes)


def _say(arguments: Arguments, summary: Summary, kept: int, seconds: float) -> None:
    if summary.errors and (arguments.strict or not arguments.quiet):
        of = f"{summary.errors:,} of {summary.pictures:,} pictures"
        complain(PROGRAM, f"{of} can't be answered; the column 'error' says why")
    if not arguments.quiet:
        how = f"in {seconds:,.1f} s" if kept < summary.shards else "which were there already"
        text = f"{summary.pictures:,} pictures in {summary.shards:,} shards, {how}"
        if 0 < kept < summary.shards:
            text += f"; {kept:,} shards were there already"
        print(text, file=people_stream(arguments.json))


def _stop(number: int) -> None:
    raise _StoppedError(number)
