"""The Ray actor of a batch job: an engine that answers blocks of pictures."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vmoe_runtime import Engine, ImageError
from vmoe_runtime.bundle.manifest import MANIFEST_NAME
from vmoe_runtime.classes import Array, likeliest, softmax
from vmoe_runtime.pictures import check_takes_pictures
from vmoe_serve.batch.job import Job
from vmoe_serve.batch.locations import BatchError

NO_PICTURE = "the row has no picture"
NOT_FINITE = "the logits are not finite numbers"


def answer_fields(job: Job) -> list[pa.Field]:
    """The columns of an answer."""
    if not job.top:
        return [pa.field(str(job.output), pa.list_(pa.float32()))]
    kinds = {"class": pa.string(), "index": pa.int32(), "probability": pa.float64()}
    return [pa.field(name, pa.list_(kind)) for name, kind in kinds.items()]


class Classifier:
    """Answers pictures, for `ray.data.Dataset.map_batches`."""

    def __init__(self, job: Job, bundle: Path, batch_size: int, threads: int | None) -> None:
        """Loads the engine.

        Args:
            job: of which it is an actor.
            bundle: absolute path, the same on every machine.
            batch_size: images per call.
            threads: per call; None for the runtime's own choice.

        Raises:
            VmoeError: the bundle can't be loaded here, or has changed since the job began.
        """
        self._job, self._batch_size = job, batch_size
        self._engine = Engine.load(bundle, job.setting, job.backend, threads)
        check_takes_pictures(self._engine.manifest.input.channels)
        if manifest_digest(bundle) != job.bundle:
            raise BatchError(f"{bundle} was changed since the job began")
        self._names = self._engine.class_names or [str(index) for index in range(self._engine.manifest.outputs)]
        self._decoders = ThreadPoolExecutor(threads or len(os.sched_getaffinity(0)), "vmoe-decoder")

    def __call__(self, block: pa.Table) -> pa.Table:
        """Answers a block.

        Args:
            block: columns `path`, and the pictures' bytes in the other one, which may be structs with a field `bytes`.

        Returns:
            Columns `path`, those of `answer_fields`, `error`, and `runtime`, a description of the runtime.
        """
        (column,) = [name for name in block.column_names if name != "path"]
        pictures = block[column]
        if pa.types.is_struct(pictures.type):
            pictures = pc.struct_field(pictures, "bytes")
        # Background threads decode the block, while the engine answers the pictures that are decoded.
        decoded = self._decoders.map(self._decode, pictures)
        answers: list[Sequence[Any] | str] = []
        while chunk := list(islice(decoded, self._batch_size)):
            arrays = [each for each in chunk if not isinstance(each, str)]
            outputs = iter(self._engine(np.concatenate(arrays)) if arrays else ())
            answers += [each if isinstance(each, str) else self._answer(next(outputs)) for each in chunk]
        columns = {"path": block["path"]}
        for position, field in enumerate(answer_fields(self._job)):
            values = [None if isinstance(answer, str) else answer[position] for answer in answers]
            columns[field.name] = pa.array(values, field.type)
        columns["error"] = pa.array([answer if isinstance(answer, str) else None for answer in answers], pa.string())
        columns["runtime"] = pa.array([self._engine.backend_description] * len(answers))
        return pa.table(columns)

    def _decode(self, picture: Any) -> Array | str:
        """A picture as the graph takes it, dtype[1,H,W,C]; or an error message."""
        content = picture.as_py()
        if content is None:
            return NO_PICTURE
        try:
            return self._engine.batch(content)
        except ImageError as error:
            return str(error)

    def _answer(self, output: Array) -> Sequence[Any] | str:
        """The values of `answer_fields` for a picture's output, or an error message."""
        if self._job.top is None:
            return (output.reshape(-1),)
        if not np.isfinite(output).all():
            return NOT_FINITE
        best, shares = likeliest(output[None], self._job.top)[0], softmax(output[None])[0]
        return [self._names[index] for index in best], best.astype(np.int32), shares[best]


def manifest_digest(bundle: Path) -> str:
    """SHA-256 (hex) of a bundle's manifest."""
    return hashlib.sha256((bundle / MANIFEST_NAME).read_bytes()).hexdigest()
