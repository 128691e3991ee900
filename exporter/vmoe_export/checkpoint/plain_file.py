"""Read byte ranges of a file that may shrink while it is open.

The file is not memory-mapped, because touching a page beyond the new end would kill the process.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from vmoe_export.errors import CheckpointError

Array = np.ndarray[Any, np.dtype[Any]]


class _Stream(io.BufferedReader):
    """A buffered file whose `read` never allocates more bytes than the file holds.

    A damaged header may request more bytes than that.
    """

    def read(self, length: int | None = -1, /) -> bytes:
        if length is not None and length > io.DEFAULT_BUFFER_SIZE:
            length = min(length, max(0, os.fstat(self.fileno()).st_size - self.tell()))
        return super().read(length)


class PlainFile:
    """A regular file, open for reading.

    Attributes:
        size: size in bytes when the file was opened.

    Raises:
        CheckpointError: the path is a folder, a device or a pipe.
        OSError: the file can't be opened.
    """

    def __init__(self, path: Path) -> None:
        # Opening a pipe would block until something writes to it.
        if not path.is_file():
            raise CheckpointError(f"{path.name} is not a plain file" if path.exists() else f"{path.name} is not there")
        self.stream = _Stream(io.FileIO(path))
        self.size = os.fstat(self.stream.fileno()).st_size

    def read(self, start: int, length: int) -> Array:
        """Read `length` bytes from `start` on, and return them as a uint8 array.

        Raises:
            CheckpointError: the file ends before the range does.
            OSError: the file can't be read.
        """
        # Check before allocating memory, because a damaged header may request far more bytes than the file holds.
        if start < 0 or length < 0 or start + length > self.size:
            raise CheckpointError(f"the file is cut short at byte {self.size}")
        data = np.empty(length, np.uint8)
        self.read_into(start, data)
        return data

    def read_into(self, start: int, data: Array) -> None:
        """Fill a uint8 array with the bytes of the file from `start` on. Raise the same errors as `read`."""
        done = 0
        while done < len(data):
            count = os.preadv(self.stream.fileno(), [data[done:].data], start + done)
            if count == 0:
                raise CheckpointError(f"the file is cut short at byte {start + done}")
            done += count

    def close(self) -> None:
        """Close the file."""
        self.stream.close()
