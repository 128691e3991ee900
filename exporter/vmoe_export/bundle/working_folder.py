"""The folder that a bundle is written in beside its target, and what is left of such folders after a kill.

`.NAME.BOOT.RANDOM.vmoe-export` is locked by the process that writes in it for as long as it lives, so whoever gets the lock
knows that its owner is gone. BOOT says on which run of which machine it was made: a lock says nothing about other machines
that share the file system, so their folders stay.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vmoe_export.bundle.bundle_target import may_be_of_bundle
from vmoe_export.bundle.folder_swap import rename_to_free_name
from vmoe_export.interruption import undone_at_a_signal

_WRITTEN, _REPLACED = "vmoe-export", "vmoe-replaced"
_ATTEMPTS = 100


class WorkingFolder:
    """The folder that a bundle is written in.

    Attributes:
        path: where it is.
        holds_old_bundle: it traded places with an old bundle.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.holds_old_bundle = False

    def remove(self) -> None:
        """Takes it away; of an old bundle only what a bundle may hold."""
        if self.holds_old_bundle:
            remove_bundle(self.path)
        else:
            shutil.rmtree(self.path, ignore_errors=True)


@contextmanager
def working_folder(target: Path) -> Iterator[WorkingFolder]:
    """A new, locked folder beside the target, which goes when the block ends or a signal ends the process.

    Raises:
        OSError: it can't be made.
    """
    for _ in range(_ATTEMPTS):
        folder = WorkingFolder(_name_beside(target, _WRITTEN))
        with undone_at_a_signal(folder.remove):
            folder.path.mkdir(mode=0o700)
            lock = _lock_new(folder.path)
            if lock is not None:
                try:
                    yield folder
                finally:
                    folder.remove()
                    os.close(lock)
                return
    raise OSError(errno.EAGAIN, "other processes take away each new folder there")


def remove_bundle(folder: Path) -> bool:
    """Takes away a folder of plain files that a bundle may hold, and touches none that holds anything else.

    Returns:
        Whether it is gone.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        with os.scandir(descriptor) as found:
            entries = list(found)
        if not all(may_be_of_bundle(entry.name) and entry.is_file(follow_symlinks=False) for entry in entries):
            return False
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(entry.name, dir_fd=descriptor)
        folder.rmdir()
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


@contextmanager
def moved_aside(target: Path) -> Iterator[Path]:
    """Gives an old bundle another name, so that its own is free; back again if the block fails.

    Raises:
        OSError: it can't be renamed.
    """
    aside = _name_beside(target, _REPLACED)
    with _locked(target):
        target.rename(aside)
        try:
            yield aside
        except BaseException:
            aside.rename(target)
            raise


def sweep(target: Path) -> None:
    """Takes away what killed exports left beside the target, and gives an old bundle that was moved aside its name back.

    Only folders go whose name is this tool's and says this run of this machine, which belong to this user, which no living
    process has locked, and which hold nothing but plain files that a bundle may hold.
    """
    boot = _boot()
    if boot is None:
        return
    left = re.compile(rf"\.(?P<name>.+)\.{boot}\.[0-9a-f]{{8}}\.(?P<kind>{_WRITTEN}|{_REPLACED})", re.DOTALL)
    with contextlib.suppress(OSError):
        for folder in target.parent.iterdir():
            if match := left.fullmatch(folder.name):
                _sweep_one(folder, target.with_name(match["name"]), match["kind"])


def _sweep_one(folder: Path, target: Path, kind: str) -> None:
    try:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            return
        with _locked(folder) as lock:
            if lock is None or not _is_still(folder, lock):
                return
            if kind == _REPLACED and not os.path.lexists(target):
                rename_to_free_name(folder, target)
            else:
                remove_bundle(folder)
    except OSError:  # in use, or gone
        return


def _name_beside(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.{_boot() or 'unknown'}.{secrets.token_hex(4)}.{kind}")


def _boot() -> str | None:
    """Names this run of this machine; None where the system doesn't say."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    return text.replace("-", "").strip()[:12] or None


def _lock_new(folder: Path) -> int | None:
    """A descriptor that holds the lock of a new folder; None if somebody who sweeps came first."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:  # a file system without locks for folders
        return descriptor
    if _is_still(folder, descriptor):
        return descriptor
    os.close(descriptor)
    return None


@contextmanager
def _locked(folder: Path) -> Iterator[int | None]:
    """Holds the folder's lock; None where its file system has no locks for folders, such as NFS.

    Raises:
        BlockingIOError: another process holds it.
        OSError: the folder can't be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        lock: int | None = descriptor
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            lock = None
        yield lock
    finally:
        os.close(descriptor)


def _is_still(folder: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(folder.lstat(), os.fstat(descriptor))
    except OSError:
        return False
