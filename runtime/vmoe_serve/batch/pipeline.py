"""A batch job on Ray Data.

It consists of readers and a pool of actors with one engine each. Its results are in the order of the input.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from vmoe_runtime import Engine, ImageError
from vmoe_runtime.classes import Array, most_probable, probabilities_of
from vmoe_runtime.processors import usable_processors
from vmoe_serve.batch.addresses import BatchError, Location
from vmoe_serve.batch.inputs import Part
from vmoe_serve.batch.job import Job, manifest_digest
from vmoe_serve.ray_session import reason

_BLOCK = 64
"""Pictures per block, the unit of readers and actors."""


class Classifier:
    """Answers pictures, for `ray.data.Dataset.map_batches`."""

    def __init__(self, job: Job, bundle: Path, batch_size: int, threads: int | None) -> None:
        """Load the engine.

        Args:
            job: the job that the actor works for.
            bundle: absolute path of the bundle. The path must be the same on every machine.
            batch_size: images per call.
            threads: threads per call; None lets the runtime choose.

        Raises:
            VmoeError: the bundle can't be loaded here, or has changed since the job began.
        """
        self._job, self._batch_size = job, batch_size
        self._engine = Engine.load(bundle, job.setting, job.backend, threads)
        if manifest_digest(bundle) != job.bundle:
            raise BatchError(f"{bundle} was changed since the job began")
        self._names = self._engine.class_names or [str(index) for index in range(self._engine.manifest.outputs)]
        self._decoders = ThreadPoolExecutor(threads or usable_processors(), "vmoe-decoder")

    def __call__(self, block: pa.Table) -> pa.Table:
        """Run the model on the pictures of a block.

        Args:
            block: a table with the column `path` and one more column. The second column contains the bytes of the pictures,
                or structs with a field `bytes`.

        Returns:
            A table with these columns:
            - `path`
            - the columns of `Job.answer_fields`
            - `error`
            - `runtime`, a description of the runtime
        """
        (column,) = [name for name in block.column_names if name != "path"]
        pictures = block[column]
        if pa.types.is_struct(pictures.type):
            pictures = pc.struct_field(pictures, "bytes")
        # Background threads decode the block while the engine runs on the pictures that are already decoded.
        decoded = self._decoders.map(self._decode, pictures)
        answers: list[Sequence[Any] | str] = []
        while chunk := list(islice(decoded, self._batch_size)):
            arrays = [each for each in chunk if not isinstance(each, str)]
            own = self._engine.manifest.output
            outputs = iter(self._engine.outputs(np.concatenate(arrays))[own] if arrays else ())
            answers += [each if isinstance(each, str) else self._answer(next(outputs)) for each in chunk]
        columns = {"path": block["path"]}
        for position, field in enumerate(self._job.answer_fields):
            values = [None if isinstance(answer, str) else answer[position] for answer in answers]
            columns[field.name] = pa.array(values, field.type)
        columns["error"] = pa.array([answer if isinstance(answer, str) else None for answer in answers], pa.string())
        columns["runtime"] = pa.array([self._engine.backend_description] * len(answers))
        return pa.table(columns)

    def _decode(self, picture: Any) -> Array | str:
        """Convert a picture to the graph's input, an array [1,H,W,C]. If this fails, return an error message."""
        content = picture.as_py()
        if content is None:
            return "the row has no picture"
        try:
            return self._engine.batch(content)
        except ImageError as error:
            return str(error)

    def _answer(self, output: Array) -> Sequence[Any] | str:
        """Convert the model's output for one picture to the values of `Job.answer_fields`.

        If the output can't be converted, return an error message.
        """
        if self._job.top is None:
            return (output.reshape(-1),)
        if not np.isfinite(output).all():
            return "the logits are not finite numbers"
        best = most_probable(output[None], self._job.top)[0]
        shares = probabilities_of(output[None], self._engine.manifest.probabilities)[0]
        return [self._names[index] for index in best], best.astype(np.int32), shares[best]


def answered_parts(
    source: Location,
    column: str | None,
    parts: Sequence[Part],
    replicas: int,
    cpus: int,
    arguments: Sequence[Any],
    after_block: Callable[[int], object],
) -> Iterator[tuple[Part, pa.Table]]:
    """Run the model on the pictures in the given parts of the input.

    Args:
        source: location of the input.
        column: name of the Parquet column that contains the pictures; None for picture files.
        parts: the parts to run, in order; not empty.
        replicas: number of actors. Each has its own engine.
        cpus: number of Ray's CPUs for each actor.
        arguments: constructor arguments of `Classifier`.
        after_block: function that is called with the number of pictures in a block, after each finished block.

    Yields:
        Each part in order, with a table of the part's rows. The rows come from the tables that `Classifier` returned.

    Raises:
        BatchError: a file can't be read, an actor can't be started, or Ray failed.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    try:
        answers = _pictures(source, column, parts).map_batches(
            Classifier,
            fn_constructor_args=arguments,
            batch_size=_BLOCK,
            batch_format="pyarrow",
            num_cpus=cpus,
            compute=ray.data.ActorPoolStrategy(size=replicas),
        )
        yield from _divided(answers.iter_batches(batch_size=None, batch_format="pyarrow"), parts, after_block)
    except BatchError:
        raise
    except Exception as error:  # Ray passes on any error that one of its components raises
        raise BatchError(f"the job stopped: {reason(error)}") from None


def _pictures(source: Location, column: str | None, parts: Sequence[Part]) -> Any:
    """Return a Ray dataset that contains the paths and bytes of the pictures, in order."""
    files = [file.path for part in parts for file in part.files]
    options = {"filesystem": source.filesystem, "include_paths": True}
    blocks = -(-sum(part.rows for part in parts) // _BLOCK)
    if column is None:
        return ray.data.read_binary_files(files, override_num_blocks=blocks, **options)
    # With partitioning, Ray would derive columns from folder names.
    found = ray.data.read_parquet(files, partitioning=None, override_num_blocks=max(blocks, len(files)), **options)
    return found.select_columns(["path", column])


def _divided(
    blocks: Iterable[pa.Table], parts: Sequence[Part], after_block: Callable[[int], object]
) -> Iterator[tuple[Part, pa.Table]]:
    """Yield each part with its table of results.

    The rows of the tables come from `blocks`, which are in the order of `parts`. `after_block` is called with the number of
    rows in each block.
    """
    left = list(parts)
    held = []
    for block in blocks:
        held.append(block)
        after_block(len(block))
        while left and sum(map(len, held)) >= left[0].rows:
            part, rows = left.pop(0), pa.concat_tables(held)
            held = [rows.slice(part.rows)]
            yield part, _checked(part, rows.slice(0, part.rows))
    if left or any(map(len, held)):
        raise BatchError("Ray Data returned the wrong number of pictures; run the same command again to resume")


def _checked(part: Part, table: pa.Table) -> pa.Table:
    if table["path"].to_pylist() != [file.path for file in part.files for _ in range(file.rows)]:
        raise BatchError("Ray Data returned the wrong pictures; run the same command again to resume")
    return table
