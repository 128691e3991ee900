"""A shard's file: its columns, how it is written, and whether one that is there is whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vmoe_runtime.classes import likeliest, softmax
from vmoe_runtime.errors import VmoeError
from vmoe_runtime.pictures import open_regular
from vmoe_runtime.whole_files import write_whole_bytes
from vmoe_serve.batch.job import Job, Shard
from vmoe_serve.batch.pictures import Part

Array = np.ndarray[Any, np.dtype[Any]]
Answer: TypeAlias = "tuple[Any, ...]"
"""What a shard says of a picture: the values of the columns of classes, or of the one of the model's output."""

_JOB, _RUNTIME = b"vmoe.job", b"vmoe.runtime"  # in the file's metadata
_CLASSES = ("class", "class_index", "probability")
NOT_FINITE = "the model's logits are not finite numbers"


class ShardError(VmoeError):
    """A shard's file that is not what the job writes."""


@dataclass(frozen=True)
class Written:
    """A shard that is finished.

    Attributes:
        shard: which one.
        errors: pictures that have an error instead of an answer.
        runtime: what answered, in words.
    """

    shard: Shard
    errors: int
    runtime: str


def answer_of(output: Array, top: int | None, names: Sequence[str]) -> Answer | str:
    """What is kept of a picture's output.

    Args:
        output: float32[classes], or [M, classes], which is kept flat.
        top: how many classes; None for the output itself.
        names: of the classes.

    Returns:
        The answer, or why there is none.
    """
    if top is None:
        return (output.reshape(-1),)
    if not np.isfinite(output).all():
        return NOT_FINITE
    best, shares = likeliest(output[None], top)[0], softmax(output[None])[0]
    return [names[index] for index in best], best.astype(np.int32), shares[best]


def write_shard(folder: Path, job: Job, shard: Shard, part: Part, answers: Sequence[Answer | str], runtime: str) -> Written:
    """Writes the answers of a shard, whole or not at all.

    Args:
        folder: of the output.
        job, shard: whose they are.
        part: the shard's pictures.
        answers: for each picture its answer, or why there is none.
        runtime: what answered, in words.

    Raises:
        OSError: it can't be written.
    """
    columns = _identities(job, shard, part)
    for position, name in enumerate(_answer_columns(job)):
        columns[name] = [None if isinstance(answer, str) else answer[position] for answer in answers]
    error = [answer if isinstance(answer, str) else None for answer in answers]
    columns["error"] = error
    columns["setting"] = [job.setting] * len(answers)
    schema = _schema(job).with_metadata({_JOB: job.digest, _RUNTIME: runtime})
    table = pa.table(columns, schema)
    write_whole_bytes(folder / shard.name, lambda file: pq.write_table(table, file, write_page_checksum=True))
    return Written(shard, sum(why is not None for why in error), runtime)


def read_shard(folder: Path, job: Job, shard: Shard, part: Part) -> Written:
    """Reads a shard that is there, and compares all that is known of it.

    Raises:
        FileNotFoundError: there is none.
        ShardError: it is not whole: cut off, damaged, of another job, or with other rows.
    """
    try:
        with open_regular(folder / shard.name) as file, pq.ParquetFile(file, page_checksum_verification=True) as parquet:
            metadata = dict(parquet.schema_arrow.metadata or {})
            table = parquet.read()
        table.validate(full=True)
        runtime = metadata.get(_RUNTIME, b"").decode()
    except FileNotFoundError:
        raise
    except (VmoeError, pa.ArrowException, OSError, ValueError) as error:
        raise ShardError(f"{shard.name} can't be read ({' '.join(str(error).split())[:200]})") from None
    if metadata.get(_JOB) != job.digest.encode() or not table.schema.equals(_schema(job)):
        raise ShardError(f"{shard.name} is of another job")
    if any(table.column(name).to_pylist() != list(values) for name, values in _identities(job, shard, part).items()):
        raise ShardError(f"{shard.name} has other rows")
    errors = len(table) - table.column("error").null_count
    answered = table.column(_answer_columns(job)[0])
    if pc.any(pc.equal(answered.is_null(), table.column("error").is_null())).as_py():
        raise ShardError(f"{shard.name} has rows without an answer and without an error, or with both")
    return Written(shard, errors, runtime)


def _schema(job: Job) -> pa.Schema:
    fields = [pa.field("row", pa.int64()), pa.field("path", pa.string())]
    if job.column is not None:
        fields.append(pa.field("file_row", pa.int64()))
    if job.top:
        kinds = (pa.string(), pa.int32(), pa.float64())
        fields += [pa.field(name, pa.list_(kind)) for name, kind in zip(_CLASSES, kinds, strict=True)]
    else:
        fields.append(pa.field(str(job.output), pa.list_(pa.float32())))
    return pa.schema([*fields, pa.field("error", pa.string()), pa.field("setting", pa.string())])


def _identities(job: Job, shard: Shard, part: Part) -> dict[str, Any]:
    """The columns that say which pictures a shard answers."""
    columns: dict[str, Any] = {"row": range(shard.first, shard.stop), "path": part.paths}
    if job.column is not None:
        columns["file_row"] = part.file_rows
    return columns


def _answer_columns(job: Job) -> tuple[str, ...]:
    return _CLASSES if job.top else (str(job.output),)
