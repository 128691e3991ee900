"""What a replica does: it answers the pictures of a shard, and writes them."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import platform
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vmoe_runtime import Engine
from vmoe_runtime.bundle.manifest import MANIFEST_NAME
from vmoe_runtime.errors import ImageError, VmoeError
from vmoe_runtime.pictures import check_takes_pictures, open_regular, path_text
from vmoe_serve.batch.job import Job, Shard
from vmoe_serve.batch.output import writing
from vmoe_serve.batch.pictures import Content, Part
from vmoe_serve.batch.shards import Answer, Written, answer_of, write_shard
from vmoe_tools.command_line import CommandError

Array = np.ndarray[Any, np.dtype[Any]]

NO_PICTURE = "there is no picture: the row has none"

# What the operating system says of one file. It says EINVAL where a damaged picture names a place before its start.
_OF_A_FILE = frozenset(
    (
        errno.EACCES,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ENXIO,
        errno.EPERM,
    )
)


@dataclass(frozen=True)
class WorkerPlan:
    """What all replicas are told.

    Attributes:
        job: what is done.
        bundle, input, output: absolute paths, the same on every machine of the cluster.
        batch: images per call.
        threads: per call; None for the runtime's own choice.
    """

    job: Job
    bundle: Path
    input: Path
    output: Path
    batch: int
    threads: int | None


class Worker:
    """A replica: one engine, for `ray.data.Dataset.map_batches`."""

    def __init__(self, plan: WorkerPlan) -> None:
        self._plan = plan
        self._closing = ExitStack()
        self._decoders = ThreadPoolExecutor(plan.threads or len(os.sched_getaffinity(0)), "vmoe-decoder")

    @cached_property
    def _engine(self) -> Engine:
        """Loaded at the first shard, where what is wrong with it becomes a sentence; Ray makes a traceback of it here."""
        plan = self._plan
        self._closing.enter_context(writing(plan.output, plan.job))
        engine = Engine.load(plan.bundle, plan.job.setting, plan.job.backend, plan.threads)
        if manifest_digest(plan.bundle) != plan.job.bundle:
            raise CommandError(f"{plan.bundle} was changed since the job began")
        check_takes_pictures(engine.manifest.input.channels)
        return engine

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Answers and writes shards.

        Args:
            rows: column `shard`, each a pickled and deflated (shard, its part of the input).

        Returns:
            Column `written`, each a pickled `Written`, or the sentence of why there is none.
        """
        shards = [pickle.loads(zlib.decompress(row)) for row in rows["shard"].to_pylist()]
        written = [pickle.dumps(self._written(*each)) for each in shards]
        return pa.table({"written": pa.array(written, pa.binary())})

    def _written(self, shard: Shard, part: Part) -> Written | str:
        try:
            manifest, runtime = self._engine.manifest, self._engine.backend_description
            names = manifest.class_names or [str(index) for index in range(manifest.outputs)]
            answers = list(self._answers(part.contents(), names))
        except VmoeError as error:
            return str(error)
        except OSError as error:
            return f"{path_text(error.filename or self._plan.bundle)} can't be read on {platform.node()}: {_reason(error)}"
        except MemoryError:
            return f"{platform.node()} has not enough memory for the pictures of {shard.name}"
        try:
            return write_shard(self._plan.output, self._plan.job, shard, part, answers, runtime)
        except OSError as error:
            return f"{path_text(self._plan.output / shard.name)} can't be written: {_reason(error)}"

    def _answers(self, contents: Iterator[Content], names: Sequence[str]) -> Iterator[Answer | str]:
        """For each picture its answer, or why there is none."""
        top = self._plan.job.top
        for decoded in self._decoded(contents):
            arrays = [each for each in decoded if not isinstance(each, str)]
            outputs = iter(self._engine(np.concatenate(arrays)) if arrays else ())
            yield from (each if isinstance(each, str) else answer_of(next(outputs), top, names) for each in decoded)

    def _decoded(self, contents: Iterator[Content]) -> Iterator[list[Array | str]]:
        """The pictures of each call, prepared while the call before it runs."""
        ahead: Iterable[Array | str] | None = None
        while chunk := list(islice(contents, self._plan.batch)):
            started = self._decoders.map(self._decode, chunk)
            if ahead is not None:
                yield list(ahead)
            ahead = started
        if ahead is not None:
            yield list(ahead)

    def _decode(self, content: Content) -> Array | str:
        """A picture as the graph takes it, dtype[1,H,W,C]; or why there is none."""
        if content is None:
            return NO_PICTURE
        try:
            if isinstance(content, bytes):
                return self._engine.batch(content)
            with open_regular(content) as file:
                return self._engine.batch(file)
        except ImageError as error:
            self._check_machine(content, error.__cause__)
            return str(error)
        except OSError as error:
            self._check_machine(content, error)
            return f"the file can't be read: {_reason(error)}"

    def _check_machine(self, content: Content, error: BaseException | None) -> None:
        """Stops the job where it is the machine that fails, and not a picture: others would get errors that aren't theirs.

        Args:
            content: a picture.
            error: with which the operating system has refused it; anything else is the picture's own.

        Raises:
            CommandError: what the machine lacks.
        """
        if not isinstance(content, Path) or not isinstance(error, OSError) or error.errno is None:
            return
        where, why = content, _reason(error)
        if error.errno in _OF_A_FILE:
            # A folder that isn't mounted is absent or empty.
            where, why = self._plan.input, "it is empty"
            try:
                with os.scandir(where) as entries:
                    if next(entries, None) is not None:
                        return
            except OSError as other:
                why = _reason(other)
        raise CommandError(f"{path_text(where)} can't be read on {platform.node()}: {why}")


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def manifest_digest(bundle: Path) -> str:
    """SHA-256 (hex) of a bundle's manifest.

    Raises:
        OSError: it can't be read.
    """
    return hashlib.sha256((bundle / MANIFEST_NAME).read_bytes()).hexdigest()
