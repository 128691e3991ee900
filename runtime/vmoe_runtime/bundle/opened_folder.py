"""A folder that is opened once: what was read from it, and what a runtime maps from it, is one state of it or is noticed.

A runtime opens files by their names. Between a look at a file and that moment the name may get another file, and get the
first one back afterwards. So the folder is pinned by a descriptor, and every file's state is compared when all is done: a
rename, a new link and a write each change the time of a file's last change, which nobody can set.
"""

from __future__ import annotations

import os
import stat
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

from vmoe_runtime.errors import BundleError, ChangedError

# Clocks of file systems advance in steps, of 10 ms at most on Linux; a second change within a step leaves no trace.
_STEP_NS = 20_000_000
_LOOKS = 5
_DESCRIPTORS = "/proc/self/fd"
_HAS_DESCRIPTORS_OF_FOLDERS = os.open in os.supports_dir_fd and hasattr(os, "O_PATH")
# A link that takes the place of a file is not followed, a pipe is not waited for.
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_BINARY", "O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK"))


class FileState(NamedTuple):
    """What tells a file that was touched from one that was not; times in nanoseconds."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int


class OpenedFolder:
    """A folder and the states of the files that were opened in it.

    Args:
        path: the folder, or a link to it.

    Raises:
        OSError: it is missing, no folder, or can't be looked at.
        ChangedError: it doesn't stop changing.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._absolute = self.path.absolute()
        self._descriptor: int | None = None
        self._names = f"{self._absolute}{os.sep}"
        if _HAS_DESCRIPTORS_OF_FOLDERS:
            self._descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self._close = weakref.finalize(self, os.close, self._descriptor)
            self._names = ""
        self._state = _settled(self._absolute.stat)
        self._states: dict[str, FileState] = {}

    @property
    def location(self) -> str:
        """A path of the folder for runtimes: through the descriptor, where the system has such paths."""
        pinned = f"{_DESCRIPTORS}/{self._descriptor}"
        return pinned if self._descriptor is not None and Path(pinned).is_dir() else str(self._absolute)

    @property
    def states(self) -> tuple[tuple[str, FileState], ...]:
        """Name and state of the folder itself, as ".", and of each file that was opened, sorted by name."""
        return tuple(sorted({".": self._state, **self._states}.items()))

    @contextmanager
    def open(self, name: str) -> Iterator[BufferedReader]:
        """One plain file, for reading.

        Raises:
            OSError: it is missing or can't be read.
            BundleError: it is a link, a folder, a device or a pipe.
            ChangedError: it isn't as it was when it was opened before.
        """
        _refuse_other_kinds(name, self._look(name).st_mode)
        with open(self._names + name, "rb", opener=self._open) as file:
            _refuse_other_kinds(name, os.fstat(file.fileno()).st_mode)
            state = _settled(lambda: os.fstat(file.fileno()))
            if self._states.setdefault(name, state) != state:
                raise ChangedError(f"{name} was changed")
            yield file

    def size(self, name: str) -> int:
        """Bytes of a file when it was opened first."""
        return self._states[name].size

    def has_changed(self) -> bool:
        """Whether the folder, or a file that was opened in it, was written to, renamed or replaced since."""
        try:
            return _state(self._absolute.stat()) != self._state or any(
                _state(self._look(name)) != state for name, state in self._states.items()
            )
        except OSError:
            return True

    def close(self) -> None:
        """Lets go of the descriptor; what a runtime mapped stays. Nothing can be opened afterwards."""
        if self._descriptor is not None:
            self._close()

    def _open(self, name: str, _: int) -> int:
        return os.open(name, _FLAGS, dir_fd=self._descriptor)

    def _look(self, name: str) -> os.stat_result:
        return os.stat(self._names + name, dir_fd=self._descriptor, follow_symlinks=False)


def _state(found: os.stat_result) -> FileState:
    return FileState(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _settled(look: Callable[[], os.stat_result]) -> FileState:
    """The state once it is old enough that the next change shows."""
    for _ in range(_LOOKS):
        found = look()
        age = time.time_ns() - found.st_ctime_ns
        if not 0 <= age < _STEP_NS:
            return _state(found)
        time.sleep((_STEP_NS - age) / 1e9)
    raise ChangedError("it is being written to")


def _refuse_other_kinds(name: str, mode: int) -> None:
    """A link could lead out of the bundle, and reading a pipe might never end."""
    if not stat.S_ISREG(mode):
        kind = "link" if stat.S_ISLNK(mode) else "folder" if stat.S_ISDIR(mode) else "device or pipe"
        raise BundleError(f"{name} is a {kind}, and a bundle holds plain files only")
