"""The pictures of a batch job, in a fixed order and divided into parts.

A picture is a file, or a row of a Parquet file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from vmoe_measure.image_source import PICTURE_SUFFIXES, find_files
from vmoe_remote.remote_files import reason_of
from vmoe_runtime.addresses import is_web
from vmoe_serve.batch.addresses import BatchError, Location

_PARQUET_SUFFIXES = frozenset({".parquet"})
READERS = 16
"""Number of files that are read at the same time."""


@dataclass(frozen=True)
class InputFile:
    """A file of the input.

    Attributes:
        path: path of the file on the input's file system.
        name: path of the file relative to the input.
        version: size and modification time of the file.
        rows: number of pictures in the file.
    """

    path: str
    name: str
    version: str
    rows: int


@dataclass(frozen=True)
class Part:
    """Consecutive files of the input. The results for these files are written to one output file.

    Attributes:
        number, count: index of the part, counted from 0, and the number of parts.
        first: index of the part's first picture among all pictures.
        files: the input files of the part, each with at least one picture.
    """

    number: int
    count: int
    first: int
    files: tuple[InputFile, ...]

    @property
    def rows(self) -> int:
        """Number of pictures in the part."""
        return sum(file.rows for file in self.files)


def list_files(source: Location, column: str | None) -> list[InputFile]:
    """Return the files of an input.

    Args:
        source: a folder of pictures. If `column` is given, a Parquet file or a folder of Parquet files.
        column: name of the Parquet column that contains the pictures' bytes; None for a folder of pictures.

    Raises:
        BatchError: there are no pictures, or some files can't be read.
    """
    suffixes = PICTURE_SUFFIXES if column is None else _PARQUET_SUFFIXES
    if source.kind == fs.FileType.NotFound:
        # If a web server fails in any way, fsspec reports that the file doesn't exist.
        raise BatchError(f"{source.text} does not exist{', or its server does not answer' * is_web(source.text)}")
    if source.kind != fs.FileType.Directory and column is None:
        raise BatchError(f"{source.text} is not a folder of pictures; for a Parquet file use --column")
    found = _found(source, suffixes)
    if not found:
        raise BatchError(f"{source.text} has no files with the endings {', '.join(sorted(suffixes))}")
    rows = [1] * len(found) if column is None else _row_counts(source, found, column)
    root = source.path if source.kind == fs.FileType.Directory else str(Path(source.path).parent)
    files = []
    for info, count in zip(found, rows, strict=True):
        if set(info.path) & set("\n\r\t"):
            raise BatchError(f"{info.path!r} has a name with a line break or a tab, which Ray Data can't read: rename it")
        files.append(InputFile(info.path, info.path[len(root) :].strip("/"), f"{info.size} {info.mtime_ns}", count))
    if not any(rows):
        raise BatchError(f"{source.text} has no rows")
    return files


def digest_of(files: Sequence[InputFile]) -> str:
    """Return the SHA-256 (hex) of the given files' names, sizes, modification times and numbers of rows."""
    return hashlib.sha256("".join(f"{file.name}\0{file.version} {file.rows}\n" for file in files).encode()).hexdigest()


def divide(files: Sequence[InputFile], size: int) -> list[Part]:
    """Divide files into parts. No file is split, and each part except the last has at least `size` pictures."""
    groups: list[list[InputFile]] = []
    held = size
    for file in (file for file in files if file.rows):
        if held >= size:
            groups.append([])
            held = 0
        groups[-1].append(file)
        held += file.rows
    parts, first = [], 0
    for number, group in enumerate(groups):
        parts.append(Part(number, len(groups), first, tuple(group)))
        first += parts[-1].rows
    return parts


def _found(source: Location, suffixes: frozenset[str]) -> list[Any]:
    """Return pyarrow's FileInfo of each input file, sorted.

    For a folder on this machine, the result is the files that all other commands find in it too.
    """
    try:
        if source.kind != fs.FileType.Directory:
            return [source.filesystem.get_file_info(source.path)]
        if isinstance(source.filesystem, fs.LocalFileSystem):
            loose, by_subfolder = find_files(Path(source.path), suffixes)
            paths = [*loose, *(path for paths in by_subfolder.values() for path in paths)]
            return list(source.filesystem.get_file_info([str(path) for path in paths]))
        infos = source.filesystem.get_file_info(fs.FileSelector(source.path, recursive=True))
    except UnicodeError:
        raise BatchError(
            f"{source.text} has names that aren't UTF-8, which Ray Data can't read: rename those files"
        ) from None
    except OSError as error:
        raise BatchError(f"{source.text} can't be read: {reason_of(error)}") from None
    start = len(source.path)
    visible = [info for info in infos if "/." not in info.path[start:] and Path(info.path).suffix.lower() in suffixes]
    return sorted((info for info in visible if info.type == fs.FileType.File), key=lambda info: str(info.path))


def _row_counts(source: Location, found: Sequence[Any], column: str) -> list[int]:
    def count(info: Any) -> int:
        try:
            with pq.ParquetFile(info.path, filesystem=source.filesystem) as file:
                _check_column(file.schema_arrow, column, info.path)
                return int(file.metadata.num_rows)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise BatchError(f"{info.path} is not a readable Parquet file ({reason_of(error)})") from None

    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(count, found))


def _check_column(schema: Any, column: str, path: str) -> None:
    if column not in schema.names:
        raise BatchError(f"{path} has no column '{column}', only {', '.join(schema.names)[:200]}")
    if schema.names.count(column) > 1:
        raise BatchError(f"{path} has several columns '{column}': rename all but one")
    if column == "path":
        raise BatchError(f"{path}: Ray Data has a column 'path' of its own, so pictures can't be in one: rename it")
    kind = schema.field(column).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not pa.types.is_binary(kind) and not pa.types.is_large_binary(kind):
        raise BatchError(f"{path}: column '{column}' is {str(kind)[:80]}, and pictures are binary")
