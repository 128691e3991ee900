"""The folder that a job writes: one job at a time, the same job each time, and nothing of others in it."""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from vmoe_runtime.pictures import path_text
from vmoe_runtime.whole_files import replaced_name, write_whole
from vmoe_serve.batch.job import Job, JobError
from vmoe_tools.command_line import CommandError

JOB_NAME, SUCCESS_NAME, LOCK_NAME = "_job.json", "_SUCCESS", ".lock"

_SHARD_NAME = re.compile(r"shard-[0-9]{5,}-of-[0-9]{5,}\.parquet")
_NFS_NAME = re.compile(r"\.nfs[0-9a-f]+")  # what NFS calls a file that is open and was removed or replaced
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
    path = folder / JOB_NAME
    # The description itself, as another job replaces it - perhaps while this process waits for the lock.
    with path.open("rb") as description:
        fcntl.flock(description, fcntl.LOCK_SH)
        is_replaced = not os.path.samestat(os.fstat(description.fileno()), path.stat())
        if is_replaced or description.read() != job.text.encode():
            raise CommandError(f"{path_text(folder)} has another job by now")
        yield


def begin(folder: Path, job: Job, *, force: bool, say: Callable[[str], None]) -> int:
    """Makes a locked folder that of a job, new or begun before, and removes what a kill has left.

    Args:
        folder: locked.
        job: which one.
        force: remove the shards of another job.
        say: is given a sentence where processes of an earlier run are waited for.

    Returns:
        How many shards of the job are there.

    Raises:
        CommandError: the folder has another job, or files that no job wrote.
        OSError: it can't be written.
    """
    with ExitStack() as held:
        # Nobody becomes a writer of the old job before the new one's description is there.
        with suppress(FileNotFoundError):
            # For writing, as a lock that excludes others needs that on NFS.
            description = held.enter_context((folder / JOB_NAME).open("r+b"))
            _wait_for_writers(folder, description, say)
        names = sorted(path.name for path in folder.iterdir())
        if foreign := [name for name in names if not _is_ours(name)]:
            raise CommandError(f"{path_text(folder)} has '{foreign[0]}', which no job wrote: choose another folder")
        for name in filter(replaced_name, names):
            (folder / name).unlink(missing_ok=True)
        shards = [name for name in names if _SHARD_NAME.fullmatch(name)]
        why = _why_other(folder, job, shards)
        if why is None:
            return len(shards)
        if why and not force:
            raise CommandError(f"{path_text(folder)} {why}; --force removes its shards and starts anew")
        (folder / SUCCESS_NAME).unlink(missing_ok=True)
        for name in shards:
            (folder / name).unlink(missing_ok=True)
        # The description last, also on the disk: until then it is still the old job, some of whose shards are missing.
        _sync(folder)
        write_whole(folder / JOB_NAME, lambda file: file.write(job.text))
        _sync(folder)
        return 0


def unfinish(folder: Path) -> None:
    """Takes away what says that a job is done, where a shard is missing nevertheless."""
    (folder / SUCCESS_NAME).unlink(missing_ok=True)


def finish(folder: Path, job: Job, summary: Mapping[str, Any]) -> None:
    """Says that a job is done, once all of its files will outlast a loss of power.

    Raises:
        CommandError: shards of other jobs are there, which whoever reads the folder would take for rows of this one.
        OSError: it can't be written.
    """
    shards = [path.name for path in folder.iterdir() if _SHARD_NAME.fullmatch(path.name)]
    if why := _why_more(job, shards):
        raise CommandError(f"{path_text(folder)} {why}; remove it")
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
    return f"has a job with {differences}" if differences else _why_more(job, shards)


def _why_more(job: Job, shards: Sequence[str]) -> str | None:
    """What a folder has besides the shards of the job; None for nothing."""
    more = sorted(set(shards) - {shard.name for shard in job.shards})
    return f"has '{more[0]}', which is no shard of this job" if more else None


def _is_ours(name: str) -> bool:
    whole = replaced_name(name) or name
    return whole in (JOB_NAME, SUCCESS_NAME, LOCK_NAME) or any(kind.fullmatch(whole) for kind in (_SHARD_NAME, _NFS_NAME))


def _wait_for_writers(folder: Path, description: BinaryIO, say: Callable[[str], None]) -> None:
    """Locks a job's description once no process writes its shards: those of a job that was killed end a moment after it."""
    if _locks(description.fileno()):
        return
    say(f"waiting for processes of an earlier run, {_PATIENCE:.0f} s at the most")
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
