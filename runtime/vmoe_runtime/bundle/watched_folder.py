"""A folder whose files are first checked and later read. It detects changes after the check.

A runtime opens files by name, after they were checked. So once the runtime has loaded them, the state of the folder and of
each file is compared with the state at the check. A write, a rename and a new hard link each change a file's time of last
change (ctime), which nobody can set.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

from vmoe_runtime.errors import BundleError, ChangedError

# On Linux, file system clocks advance in steps of at most 10 ms. A second change within the same step would go unnoticed.
# This value is twice the longest step.
_STEP_NS = 20_000_000
# If a file is replaced by a link, don't follow the link. If it is replaced by a pipe, don't wait for a writer.
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_BINARY", "O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK"))


class FileState(NamedTuple):
    """The state of a file. Any change of the file changes the state. Times are in nanoseconds."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int


class WatchedFolder:
    """A folder, and the states of the files that were opened in it.

    Args:
        path: the folder, or a link to it.

    Raises:
        OSError: the path does not exist, or is not a folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve(strict=True)
        found = self.path.stat()
        if not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(path)
        self._states = {".": _state(found)}

    @property
    def states(self) -> tuple[tuple[str, FileState], ...]:
        """The states of the folder and of each opened file, as (name, state) pairs sorted by name.

        The folder is named ".".
        """
        return tuple(sorted(self._states.items()))

    @contextmanager
    def open(self, name: str) -> Iterator[BufferedReader]:
        """Open one plain file for reading.

        Raises:
            OSError: the file is missing or can't be read.
            BundleError: the name belongs to a link, a folder, a device or a pipe.
            ChangedError: the file was changed since it was first opened.
        """
        found = (self.path / name).lstat()
        if not stat.S_ISREG(found.st_mode):
            kind = {stat.S_IFLNK: "link", stat.S_IFDIR: "folder"}.get(stat.S_IFMT(found.st_mode), "device or pipe")
            raise BundleError(f"{name} is a {kind}, and a bundle holds plain files only")
        known = self._states.setdefault(name, _state(found))
        with open(self.path / name, "rb", opener=lambda path, _: os.open(path, _FLAGS)) as file:
            if _state(os.fstat(file.fileno())) != known:
                raise ChangedError(f"{name} was changed")
            yield file

    def size(self, name: str) -> int:
        """Return the size in bytes that a file had when it was first opened."""
        return self._states[name].size

    def settle(self) -> None:
        """Wait until any further change to the folder or to an opened file is sure to get a new time of change."""
        age = time.time_ns() - max(state.changed for state in self._states.values())
        if 0 <= age < _STEP_NS:
            time.sleep((_STEP_NS - age) / 1e9)

    def has_changed(self) -> bool:
        """Return whether the folder or an opened file was written to, renamed or replaced after it was first opened."""
        try:
            return any(_state((self.path / name).lstat()) != state for name, state in self._states.items())
        except OSError:
            return True


def _state(found: os.stat_result) -> FileState:
    return FileState(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
