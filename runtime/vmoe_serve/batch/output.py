"""The folder that a job writes: one job at a time, the same job each time, and nothing of others in it."""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vmoe_runtime.command_line import CommandError
from vmoe_runtime.pictures import path_text
from vmoe_runtime.whole_files import is_left_over, write_whole
from vmoe_serve.batch.job import Job, JobError

JOB_NAME, SUCCESS_NAME, LOCK_NAME = "_job.json", "_SUCCESS", ".lock"

_SHARD_NAME = re.compile(r"shard-[0-9]{5,}-of-[0-9]{5,}\.parquet")
_PATIENCE, _PAUSE = 60.0, 0.1  # seconds


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes the folder, and keeps other jobs out of it until the block ends.

    Raises:
        CommandError: another job is at work there.
        OSError: it can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_NAME).open("ab") as lock:
        if not _locks(lock.fileno()):
            raise CommandError(f"another job writes to {path_text(folder)} at this time")
        yield


@contextmanager
def writing(folder: Path, job: Job) -> Iterator[None]:
    """Says that a process writes shards of a job until the block ends: `begin` waits for that.

    Raises:
        CommandError: the folder has another job by now.
    """
    # The description itself, as another job replaces it.
    with (folder / JOB_NAME).open("rb") as description:
        fcntl.flock(description, fcntl.LOCK_SH)
        if description.read() != job.text.encode():
            raise CommandError(f"{path_text(folder)} has another job by now")
        yield


def begin(folder: Path, job: Job, *, force: bool) -> None:
    """Makes a locked folder that of a job, new or begun before, and removes what a kill has left.

    Args:
        folder: locked.
        job: which one.
        force: remove the shards of another job.

    Raises:
        CommandError: the folder has another job, or files that no job wrote.
        OSError: it can't be written.
    """
    names = sorted(path.name for path in folder.iterdir())
    if foreign := [name for name in names if not _is_ours(name)]:
        raise CommandError(f"{path_text(folder)} has '{foreign[0]}', which no job wrote: choose another folder")
    _wait_for_writers(folder)
    for name in filter(is_left_over, names):
        (folder / name).unlink()
    shards = [name for name in names if _SHARD_NAME.fullmatch(name)]
    why = _why_other(folder, job, shards)
    if why is None:
        return
    if why and not force:
        raise CommandError(f"{path_text(folder)} {why}; --force removes its shards and starts anew")
    # The description last: until then it is still the old job, some of whose shards are missing.
    (folder / SUCCESS_NAME).unlink(missing_ok=True)
    for name in shards:
        (folder / name).unlink()
    write_whole(folder / JOB_NAME, lambda file: file.write(job.text))
    _sync(folder)


def unfinish(folder: Path) -> None:
    """Takes away what says that a job is done, where a shard is missing nevertheless."""
    (folder / SUCCESS_NAME).unlink(missing_ok=True)


def finish(folder: Path, summary: Mapping[str, Any]) -> None:
    """Says that a job is done, once all of its files will outlast a loss of power.

    Raises:
        OSError: it can't be written.
    """
    _sync(folder)
    write_whole(folder / SUCCESS_NAME, lambda file: file.write(json.dumps(summary, indent=1) + "\n"))
    _sync(folder)


def _why_other(folder: Path, job: Job, shards: Sequence[str]) -> str | None:
    """What a folder has instead of the job; None for nothing, and "" where it has none at all."""
    try:
        differences = Job.read((folder / JOB_NAME).read_bytes()).differences(job)
    except FileNotFoundError:
        return f"has shards, and no {JOB_NAME} that says whose" if shards else ""
    except JobError as error:
        return f"has a {JOB_NAME} that can't be used: {error}"
    return f"has a job with {differences}" if differences else None


def _is_ours(name: str) -> bool:
    return name in (JOB_NAME, SUCCESS_NAME, LOCK_NAME) or is_left_over(name) or _SHARD_NAME.fullmatch(name) is not None


def _wait_for_writers(folder: Path) -> None:
    """Waits for processes of a job that was killed, which end a moment after it."""
    try:
        description = (folder / JOB_NAME).open("rb")
    except FileNotFoundError:
        return
    with description:
        end = time.monotonic() + _PATIENCE
        while not _locks(description.fileno()):
            if time.monotonic() > end:
                raise CommandError(f"processes of an earlier job still write to {path_text(folder)}")
            time.sleep(_PAUSE)


def _locks(descriptor: int) -> bool:
    """Whether nobody else has a file locked, which it is then."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sync(folder: Path) -> None:
    """Writes the folder's names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
