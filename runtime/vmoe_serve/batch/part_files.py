"""Reads and writes the files of a job's parts.

A file contains a table of results, the number of errors, and descriptions of the runtimes that ran the model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

_ERRORS, _RUNTIMES = b"vmoe.errors", b"vmoe.runtimes"  # keys in the metadata of a Parquet file
_RUNTIME = "runtime"  # a column of CSV

Read = tuple[int, int, tuple[str, ...]]
"""Number of rows, number of errors, and runtimes."""


@dataclass(frozen=True)
class PartFormat:
    """A file format for parts.

    Attributes:
        write: function that writes a part to an open file. Its arguments are the file, a table, the number of errors, the
            runtimes, and the number of values in each list.
        read: function that reads a part's file. Its arguments are the path and the path's file system. It returns the number
            of rows, the number of errors and the runtimes, and raises an error if the file is damaged.
    """

    write: Callable[[Any, pa.Table, int, Sequence[str], int], None]
    read: Callable[[str, Any], Read]


def _write_parquet(sink: Any, table: pa.Table, errors: int, runtimes: Sequence[str], _: int) -> None:
    metadata = {_ERRORS: str(errors), _RUNTIMES: json.dumps(runtimes)}
    pq.write_table(table.replace_schema_metadata(metadata), sink)


def _read_parquet(path: str, filesystem: Any) -> Read:
    found = pq.read_metadata(path, filesystem=filesystem)
    return found.num_rows, int(found.metadata[_ERRORS]), tuple(json.loads(found.metadata[_RUNTIMES]))


def _write_csv(sink: Any, table: pa.Table, _: int, runtimes: Sequence[str], values: int) -> None:
    """Write a CSV file with a line for each picture. Each list becomes `values` columns: class_1, class_2, ..."""
    columns: dict[str, Any] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_list(column.type):
            lists = column.to_pylist()
            for i in range(values):
                columns[f"{name}_{i + 1}"] = pa.array([each and each[i] for each in lists], column.type.value_type)
        else:
            columns[name] = column
    pc.write_csv(pa.table({**columns, _RUNTIME: [" ".join(runtimes)] * len(table)}), sink)


def _read_csv(path: str, filesystem: Any) -> Read:
    # Read an empty field as null if it has no quotes, and as an empty string if it has quotes.
    convert = pc.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=False)
    with filesystem.open_input_stream(path) as file:
        found = pc.read_csv(file, parse_options=pc.ParseOptions(newlines_in_values=True), convert_options=convert)
    errors = len(found) - found["error"].null_count
    return len(found), errors, tuple(sorted(found[_RUNTIME].unique().to_pylist()))


PART_FORMATS: Mapping[str, PartFormat] = {
    "parquet": PartFormat(_write_parquet, _read_parquet),
    "csv": PartFormat(_write_csv, _read_csv),
}
"""Formats by the suffix of their files; the first is the default."""
