"""Where a job's pictures come from: a folder of picture files, or a column of Parquet files."""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vmoe_measure.image_source import PICTURE_SUFFIXES, find_files
from vmoe_runtime.errors import ImageError
from vmoe_runtime.pictures import open_regular, path_text
from vmoe_runtime.whole_files import real_path

Content: TypeAlias = "Path | bytes | None"
"""A picture: its file, its bytes, or None where a row has none."""

_PARQUET_SUFFIXES = frozenset({".parquet"})
_ROWS_AT_ONCE = 64
_BUFFER = 1 << 20  # bytes


class Part(Protocol):
    """Neighbouring pictures of an input. It can be pickled, and reads nothing before `contents` does."""

    @property
    def paths(self) -> list[str]:
        """For each picture its file, relative to the input, as text; bytes that are no UTF-8 are escaped."""

    @property
    def file_rows(self) -> list[int] | None:
        """For each picture its row in the file; None for picture files."""

    def contents(self) -> Iterator[Content]:
        """The pictures, in their order."""


class Pictures(Protocol):
    """All pictures of an input, in an order that is always the same.

    Attributes:
        digest: SHA-256 (hex) of the names, sizes, times of change and rows of all files.
    """

    digest: str

    def __len__(self) -> int: ...

    def part(self, first: int, stop: int) -> Part:
        """The pictures from number `first` on to the one before `stop`."""


def open_pictures(path: Path, column: str | None) -> Pictures:
    """Finds the pictures of an input, as `vmoe_measure.image_source` does in folders.

    Args:
        path: a folder of pictures; with a column a Parquet file, or a folder of them.
        column: of Parquet files.

    Raises:
        ImageError: there are none.
        OSError: a file can't be read.
    """
    path = real_path(path)
    if not path.exists():
        raise ImageError(f"{path_text(path)} is not there")
    if column is not None:
        return _ParquetPictures(path, _parquet_files(path), column)
    if not path.is_dir():
        raise ImageError(f"{path_text(path)} is no folder of pictures; --column names a column of a Parquet file")
    files = _files(path, PICTURE_SUFFIXES)
    if not files:
        raise ImageError(f"{path_text(path)} has no pictures ({', '.join(sorted(PICTURE_SUFFIXES))})")
    return _PictureFiles(path, files)


def _files(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    """The files of a folder, relative to it."""
    loose, by_subfolder = find_files(folder, suffixes)
    return [path.relative_to(folder) for path in (*loose, *(path for paths in by_subfolder.values() for path in paths))]


def _parquet_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [Path()]
    files = _files(path, _PARQUET_SUFFIXES)
    if not files:
        raise ImageError(f"{path_text(path)} has no Parquet files (.parquet)")
    return files


def _digest(root: Path, files: Sequence[Path], more: Iterable[object]) -> str:
    """SHA-256 of what identifies files without reading them."""
    digest = hashlib.sha256()
    for file, extra in zip(files, more, strict=True):
        state = (root / file).stat()
        digest.update(os.fsencode(file) + f"\0{state.st_size} {state.st_mtime_ns} {extra}\n".encode())
    return digest.hexdigest()


class _PictureFiles:
    """See Pictures."""

    def __init__(self, folder: Path, files: Sequence[Path]) -> None:
        self._folder, self._files = folder, files
        self.digest = _digest(folder, files, [""] * len(files))

    def __len__(self) -> int:
        return len(self._files)

    def part(self, first: int, stop: int) -> Part:
        return _FilesPart(self._folder, tuple(self._files[first:stop]))


@dataclass(frozen=True)
class _FilesPart:
    """See Part."""

    folder: Path
    files: tuple[Path, ...]

    @property
    def paths(self) -> list[str]:
        return [path_text(file) for file in self.files]

    @property
    def file_rows(self) -> None:
        return None

    def contents(self) -> Iterator[Content]:
        return (self.folder / file for file in self.files)


class _ParquetPictures:
    """See Pictures."""

    def __init__(self, root: Path, files: Sequence[Path], column: str) -> None:
        self._root, self._files, self._column = root, files, column
        rows = [_rows(root / file, column) for file in files]
        self._ends = list(accumulate(rows))
        if not len(self):
            raise ImageError(f"{path_text(root)} has no rows")
        self.digest = _digest(root, files, rows)

    def __len__(self) -> int:
        return self._ends[-1]

    def part(self, first: int, stop: int) -> Part:
        slices = []
        for number in range(bisect_right(self._ends, first), len(self._files)):
            before = self._ends[number - 1] if number else 0
            if before >= stop:
                break
            if self._ends[number] == before:  # a file without rows
                continue
            slices.append(_Slice(self._files[number], max(first - before, 0), min(stop, self._ends[number]) - before))
        return _ParquetPart(self._root, tuple(slices), self._column)


@dataclass(frozen=True)
class _Slice:
    """The rows of a file from `start` on to the one before `stop`."""

    file: Path
    start: int
    stop: int


@dataclass(frozen=True)
class _ParquetPart:
    """See Part."""

    root: Path
    slices: tuple[_Slice, ...]
    column: str

    @property
    def paths(self) -> list[str]:
        # The input itself where that is a file.
        names = [path_text(piece.file if piece.file.name else self.root.name) for piece in self.slices]
        return [name for name, piece in zip(names, self.slices, strict=True) for _ in range(piece.start, piece.stop)]

    @property
    def file_rows(self) -> list[int]:
        return [row for piece in self.slices for row in range(piece.start, piece.stop)]

    def contents(self) -> Iterator[Content]:
        for piece in self.slices:
            yield from _bytes_of(self.root / piece.file, self.column, piece.start, piece.stop)


def _rows(path: Path, column: str) -> int:
    """The number of rows of a Parquet file that has the column."""
    with _Parquet(path) as parquet:
        schema = parquet.schema_arrow
        # Arrow's own search takes no name that isn't UTF-8.
        found = [index for index, name in enumerate(schema.names) if name == column]
        if len(found) != 1:
            names = ", ".join(dict.fromkeys(schema.names))
            what = "several columns" if found else "no column"
            raise ImageError(f"{path_text(path)} has {what} '{column}' ({names[:200]})")
        kind = schema.field(found[0]).type
        if _has_bytes(kind):
            kind = kind.field("bytes").type
        if not pa.types.is_binary(kind) and not pa.types.is_large_binary(kind):
            raise ImageError(f"{path_text(path)}: column '{column}' is {str(kind)[:80]}, and pictures are binary")
        return int(parquet.metadata.num_rows)


def _bytes_of(path: Path, column: str, start: int, stop: int) -> Iterator[bytes | None]:
    """The pictures of some rows; the row groups that have them are read from their start, a piece at a time."""
    with _Parquet(path) as parquet:
        metadata = parquet.metadata
        ends = list(accumulate(metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)))
        if not ends or ends[-1] < stop:
            raise ImageError(f"{path_text(path)} has {ends[-1] if ends else 0} rows, and had more when the job began")
        groups = range(bisect_right(ends, start), bisect_right(ends, stop - 1) + 1)
        row = ends[groups[0] - 1] if groups[0] else 0
        # Of a struct the bytes alone: what else it has may be large, or nothing that Python could hold.
        nested = _has_bytes(parquet.schema_arrow.field(column).type)
        wanted = f"{column}.bytes" if nested else column
        for batch in parquet.iter_batches(_ROWS_AT_ONCE, row_groups=list(groups), columns=[wanted]):
            values = batch.column(column).slice(max(start - row, 0), max(stop - max(start, row), 0))
            for value in pc.struct_field(values, "bytes") if nested else values:
                yield value.as_py()
            row += len(batch)
            if row >= stop:
                return


def _has_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)


class _Parquet:
    """An open Parquet file; whatever is wrong with it, also in the block, becomes one sentence."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Any:
        try:
            self._file = open_regular(self._path)
        except OSError as error:
            raise self._unreadable(error) from None
        try:
            # Pieces of a buffer's size, and none ahead: otherwise the column's whole row groups would lie in memory.
            return pq.ParquetFile(self._file, buffer_size=_BUFFER, pre_buffer=False)
        except (pa.ArrowException, OSError, ValueError) as error:
            self._file.close()
            raise self._unreadable(error) from None

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: object) -> None:
        self._file.close()
        if isinstance(value, pa.ArrowException | OSError | ValueError) and not isinstance(value, ImageError):
            raise self._unreadable(value) from None

    def _unreadable(self, error: BaseException) -> ImageError:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        reason = " ".join(why.split())[:200]
        return ImageError(f"{path_text(self._path)} is not a readable Parquet file ({reason})")
