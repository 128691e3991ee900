"""Reads spans of a file that may shrink meanwhile. It is not mapped: touching a page that is gone ends the process."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from vmoe_export.errors import CheckpointError

Array = np.ndarray[Any, np.dtype[Any]]


class _Stream(io.BufferedReader):
    """A file whose `read` takes no memory for bytes that are not there, whatever length a damaged file asks for."""

    def read(self, length: int | None = -1, /) -> bytes:
        if length is not None and length > io.DEFAULT_BUFFER_SIZE:
            length = min(length, max(0, os.fstat(self.fileno()).st_size - self.tell()))
        return super().read(length)


class PlainFile:
    """A file that is open for reading.

    Attributes:
        size: bytes that it had when it was opened.

    Raises:
        CheckpointError: it is a folder, a device or a pipe.
        OSError: it can't be opened.
    """

    def __init__(self, path: Path) -> None:
        # On a pipe, opening would wait for whoever writes.
        if not path.is_file():
            raise CheckpointError(f"{path.name} is not a plain file" if path.exists() else f"{path.name} is not there")
        self.stream = _Stream(io.FileIO(path))
        self.size = os.fstat(self.stream.fileno()).st_size

    def read(self, start: int, length: int) -> Array:
        """Bytes of a span, as uint8[length].

        Raises:
            CheckpointError: the file doesn't reach that far.
            OSError: it can't be read.
        """
        # Checked first: memory is not taken for bytes that are not there.
        if start < 0 or length < 0 or start + length > self.size:
            raise CheckpointError(f"the file is cut short at byte {self.size}")
        data = np.empty(length, np.uint8)
        self.read_into(start, data)
        return data

    def read_into(self, start: int, data: Array) -> None:
        """Fills uint8[length] with the bytes of a span; raises as `read` does."""
        done = 0
        while done < len(data):
            count = os.preadv(self.stream.fileno(), [data[done:].data], start + done)
            if count == 0:
                raise CheckpointError(f"the file is cut short at byte {start + done}")
            done += count

    def close(self) -> None:
        """Closes it."""
        self.stream.close()
