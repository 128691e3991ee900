"""A batch job on Ray Data: readers, a pool of actors, and answers in the order of the input."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray

from vmoe_serve.batch.classifier import Classifier
from vmoe_serve.batch.inputs import Part
from vmoe_serve.batch.locations import BatchError, Location
from vmoe_serve.ray_session import reason

_BLOCK = 64
"""Pictures per block, the unit of readers and actors."""


def answered_parts(
    source: Location, column: str | None, parts: Sequence[Part], replicas: int, cpus: int, arguments: Sequence[Any]
) -> Iterator[tuple[Part, pa.Table]]:
    """Answers parts of the input.

    Args:
        source: of the input.
        column: of Parquet files; None for picture files.
        parts: to be answered, in order; not empty.
        replicas: number of actors, each with an engine.
        cpus: Ray CPUs of each.
        arguments: of `Classifier`.

    Yields:
        Each part in order, with a table as `Classifier` returns it.

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
        yield from _divided(answers.iter_batches(batch_size=None, batch_format="pyarrow"), parts)
    except BatchError:
        raise
    except Exception as error:  # Ray raises whatever its parts raise
        raise BatchError(f"the job stopped: {reason(error)}") from None


def _pictures(source: Location, column: str | None, parts: Sequence[Part]) -> Any:
    """The dataset with the paths and bytes of the pictures, in order."""
    files = [file.path for part in parts for file in part.files]
    options = {"filesystem": source.filesystem, "include_paths": True}
    blocks = -(-sum(part.rows for part in parts) // _BLOCK)
    if column is None:
        return ray.data.read_binary_files(files, override_num_blocks=blocks, **options)
    # Partitioning would read columns from the names of folders.
    found = ray.data.read_parquet(files, partitioning=None, override_num_blocks=max(blocks, len(files)), **options)
    return found.select_columns(["path", column])


def _divided(blocks: Iterable[pa.Table], parts: Sequence[Part]) -> Iterator[tuple[Part, pa.Table]]:
    """The rows of each part; parts are consecutive."""
    left = list(parts)
    held = []
    for block in blocks:
        held.append(block)
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
