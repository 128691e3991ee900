"""Write a bundle folder completely or not at all.

The files are first written to `.NAME.vmoe-export/new`, next to the target `NAME`. At the end, that folder is renamed to
`NAME`. If an export is killed, the next export to the same target deletes the leftover files.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vmoe_export.errors import ExportError
from vmoe_runtime.bundle.manifest import FORMAT, MANIFEST_NAME, WEIGHTS_NAME, Manifest
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.errors import BundleError, shown

CARD_NAME = "README.md"

_MAX_MANIFEST_BYTES = 16 << 20
_AT_FDCWD, _EXCHANGE = -100, 2  # fcntl.h, linux/fs.h
_NOT_OFFERED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM}


def check_target(target: Path, *, force: bool, sources: Iterable[Path] = ()) -> None:
    """Check that a bundle may be written to `target`.

    Args:
        target: the path of the bundle.
        force: whether an existing bundle may be replaced.
        sources: files and folders that the export reads.

    Raises:
        ExportError: one of these:

            - The path is not a valid name, or its parent folder does not exist.
            - The target would be inside a bundle.
            - The target exists, and `force` is false.
            - The target exists but is not a bundle, or it contains a file that does not belong to that bundle.
            - The target contains the current folder or one of `sources`.
    """
    if "\0" in str(target):
        raise ExportError(f"{shown(str(target))} is not a path: it contains a zero byte")
    if target.name in {"", ".."}:
        raise ExportError(f"'{target}' is not a name for a bundle")
    try:
        str(target.absolute()).encode()
    except UnicodeEncodeError:
        raise ExportError(
            f"{target} is not text in UTF-8, which the libraries that write graphs need; choose another place"
        ) from None
    parent = target.absolute().parent
    if not parent.is_dir():
        raise ExportError(f"{parent} is not a folder; make it first")
    if _files_of_bundle(parent) is not None:
        raise ExportError(f"{target} would lie in the bundle {parent}; choose another place")
    if os.path.lexists(target):
        if not force:
            raise ExportError(f"{target} exists; --force replaces it")
        _check_replaceable(target, sources)


@contextmanager
def new_bundle(target: Path, *, force: bool, needed_bytes: int = 0, sources: Iterable[Path] = ()) -> Iterator[Path]:
    """Yield a temporary folder. When the block ends, rename the folder to `target`, or delete it after an error.

    Args:
        target: the path of the bundle.
        force: whether an existing bundle may be replaced.
        needed_bytes: approximate size of the bundle.
        sources: files and folders that the export reads. A bundle that contains one of them is not replaced.

    Raises:
        ExportError: `check_target` refuses the target, there is too little space, or the folder can't be written.
    """
    sources = list(sources)
    check_target(target, force=force, sources=sources)
    place = target.absolute()
    try:
        _check_room(place.parent, needed_bytes)
        with _working_folder(place) as work:
            new = work / "new"
            new.mkdir()
            yield new
            # Check again, because another program may have created the target while the bundle was being written.
            check_target(target, force=force, sources=sources)
            if not os.path.lexists(place):
                new.rename(place)
            elif not _exchange(new, place):
                old = place.rename(work / "old")
                try:
                    new.rename(place)
                except BaseException:
                    old.rename(place)
                    raise
    except OSError as error:
        raise ExportError(f"{target} could not be written: {error.strerror or error}") from None


def write_manifest(folder: Path, content: Mapping[str, Any]) -> Manifest:
    """Write `manifest.json`, which lists the size and SHA-256 of each file in the folder.

    Return the manifest, which is read back from the folder.

    Raises:
        ExportError: the bundle reader rejects the folder.
    """
    files = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files[path.name] = {"sha256": digest, "bytes": path.stat().st_size}
    text = json.dumps({**content, "files": files}, indent=1, allow_nan=False).encode() + b"\n"
    (folder / MANIFEST_NAME).write_bytes(text)
    try:
        return Bundle.open(folder, verify=False).manifest
    except BundleError as error:
        raise ExportError(f"the exported bundle can't be loaded: {error}") from None


@contextmanager
def _working_folder(place: Path) -> Iterator[Path]:
    """Make and lock the folder `.NAME.vmoe-export` next to the target `place`, and delete the folder when the block ends."""
    work = place.with_name(f".{place.name}.vmoe-export")
    work.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = os.path.samestat(work.lstat(), os.fstat(lock))
        except (BlockingIOError, FileNotFoundError):
            is_ours = False
        if not is_ours:
            raise ExportError(f"another export is writing {place}")
        try:
            if (work / "old").exists() and not os.path.lexists(place):
                (work / "old").rename(place)
            for left in ("new", "old"):
                shutil.rmtree(work / left, ignore_errors=True)
            yield work
        finally:
            try:
                shutil.rmtree(work, ignore_errors=True)
            finally:  # a signal may have interrupted the first rmtree, so try again
                shutil.rmtree(work, ignore_errors=True)
    finally:
        os.close(lock)


def _check_room(parent: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(parent).free
    if free < needed_bytes:
        # Round the free space down and the needed space up, so that the message never shows two equal numbers.
        raise ExportError(
            f"{parent} has {math.floor(free / 1e5) / 10:,.1f} MB free, and the bundle needs about "
            f"{math.ceil(needed_bytes / 1e5) / 10:,.1f} MB"
        )


def _check_replaceable(target: Path, sources: Iterable[Path]) -> None:
    """Raise ExportError if the target may not be replaced.

    It may not be replaced if it is not a bundle, or if it contains an extra file, a source or the current folder.
    """
    files = None if target.is_symlink() else _files_of_bundle(target)
    if files is None:
        raise ExportError(f"{target} exists and is not a bundle, so it is not replaced")
    for path in target.iterdir():
        if path.name not in files or path.is_symlink() or not path.is_file():
            raise ExportError(
                f"{target} contains '{path.name}', which is not part of the bundle, so it is not replaced; move that file "
                "away first"
            )
    real = Path(os.path.realpath(target))
    if Path.cwd().is_relative_to(real):
        raise ExportError(f"{target} is the folder you are in, so it is not replaced; run the command from elsewhere")
    for source in sources:
        if Path(os.path.realpath(source)).is_relative_to(real):
            raise ExportError(
                f"{target} contains {source}, which this export reads, so it is not replaced; choose another name"
            )


def _files_of_bundle(folder: Path) -> set[str] | None:
    """Return the names of the files that belong to the bundle in a folder, or None if there is no bundle manifest.

    The manifest and the model card always belong to it. The weights file and files whose names end in `.onnx` belong to it
    if the manifest lists them. Other listed files may not belong to it, because another program may have written the
    manifest.
    """
    path = folder / MANIFEST_NAME
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > _MAX_MANIFEST_BYTES:
            return None
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("files"), dict):
        return None
    return {MANIFEST_NAME, CARD_NAME, *(name for name in content["files"] if name == WEIGHTS_NAME or name.endswith(".onnx"))}


def _exchange(one: Path, other: Path) -> bool:
    """Swap two paths atomically. Return False if the system or the file system does not support this."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):  # not Linux, or a C library from before 2018, which has no renameat2
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NOT_OFFERED:
        return False
    raise OSError(number, os.strerror(number))
