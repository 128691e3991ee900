"""Locations of a batch job's pictures and results.

A location is a path, or a URI that pyarrow or fsspec can open. A URI is opened with fsspec if pyarrow doesn't support it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
from pyarrow import fs

from vmoe_remote.remote_files import TRIES, answer_of, open_filesystem, reason_of
from vmoe_runtime import VmoeError


class BatchError(VmoeError):
    """A batch job can't start or continue."""


@dataclass(frozen=True)
class Location:
    """A file or folder on this machine or elsewhere.

    Attributes:
        text: the path or URI that the user wrote.
        filesystem: pyarrow's file system object that contains the file or folder.
        path: absolute path on that file system.
    """

    text: str
    filesystem: fs.FileSystem
    path: str

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the location of a path or a URI, such as `photos`, `s3://bucket/photos` or `gs://bucket/photos`.

        Raises:
            BatchError: neither pyarrow nor fsspec can open the URI.
        """
        if "://" not in text:
            return cls(text, fs.LocalFileSystem(), os.path.realpath(text))
        try:
            try:
                filesystem, path = fs.FileSystem.from_uri(text)
            except pa.ArrowInvalid as error:
                if "Unrecognized filesystem type" not in str(error):
                    raise
                found, path = open_filesystem(text)
                filesystem = fs.PyFileSystem(fs.FSSpecHandler(found))
        except Exception as error:  # fsspec's packages raise errors of their own, most often because a package is missing
            raise BatchError(f"{text} can't be opened: {reason_of(error, text)}") from None
        return cls(text, filesystem, path.rstrip("/"))

    @cached_property
    def kind(self) -> Any:
        """pyarrow's FileType for the file or folder at the location."""
        try:
            # Limit the waiting time, because pyarrow's own file systems may wait forever for a server that doesn't respond.
            return answer_of(lambda: self.filesystem.get_file_info(self.path).type, TRIES)
        except Exception as error:  # fsspec's packages raise errors of their own
            raise BatchError(f"{self.text} can't be read: {reason_of(error, self.text)}") from None

    def overlaps(self, other: Location) -> bool:
        """Return whether the two locations are the same, or one location contains the other."""
        ours, theirs = Path(self.path), Path(other.path)
        same = self.filesystem.type_name == other.filesystem.type_name
        return same and (ours.is_relative_to(theirs) or theirs.is_relative_to(ours))
