"""Writes results to files in npz, CSV or Parquet format. Each file is a table with one row per image."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import click
import numpy as np

from vmoe_runtime.bundle.manifest import Manifest
from vmoe_runtime.routing import Array
from vmoe_tools.output import check_output_file, write_large_file
from vmoe_tools.run.answers import Answer

Table = Mapping[str, Array]
"""Columns by name: [images] or [images, values]; in an npz file also [images, tokens, values]."""


def check_answer_file(target: Path | None, used: Sequence[Path]) -> None:
    """Refuse a file that can't be written, before the user waits for its content.

    Raises:
        click.UsageError: the suffix is not that of a supported format, or `check_output_file` refuses the file.
        click.ClickException: the file is a Parquet file, and pyarrow is not installed.
    """
    if target is None:
        return
    if target.suffix not in _WRITERS:
        raise click.UsageError(f"--out: {target} must end in {', '.join(_WRITERS)}")
    check_output_file(target, used)
    if target.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ModuleNotFoundError:
            raise click.ClickException(f"{target} needs pyarrow; pip install 'vmoe-export[serve]'") from None


def write_answers(target: Path, answers: Sequence[Answer], manifest: Manifest, top: int) -> None:
    """Write one row for each image's result.

    Args:
        target: the file; its suffix determines the format.
        answers: results from one bundle.
        manifest: the bundle's manifest.
        top: requested number of classes per image.

    Raises:
        click.ClickException: the file can't be written. If the file existed before, it stays unchanged.
    """
    table = _table(answers, manifest, min(top, manifest.outputs))
    write_large_file(target, lambda file: _WRITERS[target.suffix](file, table))


def _table(answers: Sequence[Answer], manifest: Manifest, top: int) -> Table:
    """Return the columns: image, classes or other outputs, and error.

    If an image has an error, its classes and other outputs are "", -1 or NaN.
    """
    count = len(answers)
    columns: dict[str, Array] = {"image": np.array([_text(os.fspath(each.image)) for each in answers])}
    others = {name: shape for name, shape in manifest.answers.items() if name != "logits"}
    columns |= {name: np.full((count, *shape), np.nan, np.float32) for name, shape in others.items()}
    if manifest.output == "logits":
        names = np.array([*(manifest.class_names or map(str, range(manifest.outputs))), ""])
        columns["index"] = np.full((count, top), -1, np.int32)
        columns["probability"] = np.full((count, top), np.nan)
    for row, each in enumerate(answers):
        for name, values in each.outputs.items():
            columns[name][row] = values
        for rank, (index, probability) in enumerate(each.classes):
            columns["index"][row, rank], columns["probability"][row, rank] = index, probability
    if "index" in columns:
        columns["class"] = names[columns["index"]]
    columns["error"] = np.array([_text(each.error or "") for each in answers])
    order = ("image", "class", "index", "probability", *others, "error")
    return {name: columns[name] for name in order if name in columns}


def _text(text: str) -> str:
    """Make a string encodable as UTF-8, even if it is a path with bytes that are not valid UTF-8."""
    return text.encode(errors="surrogateescape").decode(errors="replace")


def _write_npz(file: IO[bytes], table: Table) -> None:
    arrays: dict[str, Any] = {**table}
    np.savez(file, **arrays)


def _write_csv(file: IO[bytes], table: Table) -> None:
    """Write one line for each image.

    If a column has several values per image, it becomes several columns: class_1, class_2, ...
    """
    flat: dict[str, Array] = {}
    for name, column in table.items():
        by_value = {f"{name}_{i}": values for i, values in enumerate(column.T, 1)} if column.ndim > 1 else {name: column}
        flat |= by_value
    text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
    writer = csv.writer(text)
    writer.writerow(flat)
    writer.writerows(zip(*flat.values(), strict=True))
    text.detach()


def _write_parquet(file: IO[bytes], table: Table) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: list(column) if column.ndim > 1 else column for name, column in table.items()}
    columns["error"] = pa.array([text or None for text in table["error"]], pa.string())  # sets the type if all are null
    pq.write_table(pa.table(columns), file)


_WRITERS: Mapping[str, Callable[[IO[bytes], Table], None]] = {
    ".npz": _write_npz,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}
