"""Renames that the file system does in one step: folders that trade places, and a folder that replaces nothing."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

_NOREPLACE, _EXCHANGE = 1, 2  # linux/fs.h
_AT_FDCWD = -100
_NOT_OFFERED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM}


def exchange(one: Path, other: Path) -> bool:
    """Two names trade what they stand for, at once; False where the system or the file system doesn't offer that.

    Raises:
        OSError: it does, and it failed.
    """
    return _renameat2(one, other, _EXCHANGE)


def rename_to_free_name(source: Path, target: Path) -> None:
    """Renames a folder, and never replaces anything.

    Raises:
        FileExistsError: the name is taken, be it by an empty folder.
        OSError: it failed otherwise.
    """
    if _renameat2(source, target, _NOREPLACE):
        return
    # Two steps where there is no single one: only an empty folder that appears in between would be replaced.
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    source.rename(target)


def _renameat2(source: Path, target: Path, flags: int) -> bool:
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):  # not Linux, or a C library from before 2018
        return False
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    function.restype = ctypes.c_int
    if function(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NOT_OFFERED:
        return False
    raise OSError(number, os.strerror(number), str(source), None, str(target))
