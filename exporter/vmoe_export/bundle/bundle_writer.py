"""Writes a bundle folder whole or not at all.

It is written in `.NAME.vmoe-export/new` beside its target, and takes the target's name at the end. The next export to the
same target removes what a killed one left there.
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
    """Refuses a target that can't become a bundle.

    Args:
        target: where the bundle will be.
        force: it may replace a bundle.
        sources: files and folders that the export reads.

    Raises:
        ExportError: the target would lie in a bundle; it exists and `force` is not given; or it is something else than a
            bundle, holds a file that no bundle holds, or one of the sources.
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
    """A temporary folder that takes the name `target` when the block ends well, and is removed when it doesn't.

    Args:
        target: where the bundle will be.
        force: replace a bundle that is already there.
        needed_bytes: about how large the bundle will be.
        sources: files and folders that the export reads, and that must stay.

    Raises:
        ExportError: the target exists, is no bundle, or can't be written.
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
            # Somebody else may have put something there meanwhile.
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
    """Writes `manifest.json` over the files that are in the folder, with their sizes and SHA-256s, and reads it.

    Raises:
        ExportError: what is in the folder now is no bundle that a reader takes.
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
        raise ExportError(f"the export made a bundle that can't be loaded: {error}") from None


@contextmanager
def _working_folder(place: Path) -> Iterator[Path]:
    """The locked folder `.NAME.vmoe-export` beside a target, which is removed in the end."""
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
            finally:  # once more, where a signal ended the first
                shutil.rmtree(work, ignore_errors=True)
    finally:
        os.close(lock)


def _check_room(parent: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(parent).free
    if free < needed_bytes:
        # Rounded apart, so that the two never read the same.
        raise ExportError(
            f"{parent} has {math.floor(free / 1e5) / 10:,.1f} MB free, and the bundle needs about "
            f"{math.ceil(needed_bytes / 1e5) / 10:,.1f} MB"
        )


def _check_replaceable(target: Path, sources: Iterable[Path]) -> None:
    """Refuses to replace a folder that is more than a bundle, or that holds what the export reads."""
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
    """Names of the files that the manifest lists, its own and the model card's; None where there is no manifest of a bundle.

    Other programs write a manifest.json, too, and anybody may write one that lists what isn't the bundle's.
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
    """Two names trade what they stand for, at once; False where the system or the file system doesn't offer that."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):  # not Linux, or a C library from before 2018
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NOT_OFFERED:
        return False
    raise OSError(number, os.strerror(number))
