"""What a new bundle may take the place of: nothing, or an old bundle that holds nothing else and that nobody needs."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from vmoe_export.errors import ExportError
from vmoe_runtime.bundle.manifest import FORMAT, MANIFEST_NAME, WEIGHTS_NAME
from vmoe_runtime.errors import shown

_MAX_MANIFEST_BYTES = 16 << 20


def check_target(target: Path, *, force: bool, sources: Iterable[Path] = ()) -> None:
    """Refuses a target that can't become a bundle.

    Args:
        target: where the bundle will be.
        force: it may replace a bundle.
        sources: files and folders that the export reads.

    Raises:
        ExportError: the target exists and `force` is not given; or it is something else than a bundle, holds a file that
            no bundle holds, or one of the sources.
    """
    sources = list(sources)
    for path in (target, *sources):
        if "\0" in str(path):
            raise ExportError(f"{shown(str(path))} is no path: there is a zero byte in it")
    if target.name in {"", ".."}:
        raise ExportError(f"'{target}' is not a name for a bundle")
    try:
        str(target.absolute()).encode()
    except UnicodeEncodeError:
        raise ExportError(
            f"{target} is not text in UTF-8, which the libraries that write graphs need; choose another place"
        ) from None
    try:
        if not target.absolute().parent.is_dir():
            raise ExportError(f"{target.absolute().parent} is not there; make the folder first")
        if os.path.lexists(target):
            if not force:
                raise ExportError(f"{target} exists; --force replaces it")
            check_replaceable(target, target, sources)
    except OSError as error:
        raise ExportError(f"{target} can't be written: {error.strerror}") from None


def check_replaceable(folder: Path, name: Path, sources: Iterable[Path] = ()) -> None:
    """Refuses to let a folder go that is more than a bundle.

    Args:
        folder: the folder.
        name: what to call it.
        sources: files and folders that the export reads.

    Raises:
        ExportError: as in `check_target`.
        OSError: the folder can't be read.
    """
    files = None if folder.is_symlink() or not folder.is_dir() else _files_of_bundle(folder)
    if files is None:
        raise ExportError(f"{name} exists and is not a bundle, so it is not replaced")
    identities = {_identity(folder)}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name not in files or not entry.is_file(follow_symlinks=False):
                raise ExportError(
                    f"{name} holds '{entry.name}', which is no part of the bundle, so it is not replaced; move that "
                    "elsewhere first"
                )
            identities.add(_identity(folder / entry.name))
    if not identities.isdisjoint(_identities_above(Path.cwd())):
        raise ExportError(f"{name} is the folder you are in, so it is not replaced; run the command from elsewhere")
    for source in sources:
        # By identity, not by name: links, mounts and hard links lead to the same files.
        if not identities.isdisjoint(_identities_above(source)):
            raise ExportError(f"{name} holds {source}, which this export reads, so it is not replaced; choose another name")


def may_be_of_bundle(name: str) -> bool:
    """Whether a bundle may hold a file of this name, whatever a manifest says."""
    return name in {MANIFEST_NAME, WEIGHTS_NAME} or name.endswith(".onnx")


def _files_of_bundle(folder: Path) -> set[str] | None:
    """Names of the files that the manifest lists, and its own; None where there is no manifest of a bundle.

    Other programs write a manifest.json too, and anybody may write one that lists what isn't the bundle's.
    """
    try:
        with _open_plain(folder / MANIFEST_NAME) as file:
            text = file.read(_MAX_MANIFEST_BYTES + 1)
        content = json.loads(text) if len(text) <= _MAX_MANIFEST_BYTES else None
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return None
    listed = content.get("files")
    names = listed if isinstance(listed, dict) else {}
    return {MANIFEST_NAME, *filter(may_be_of_bundle, names)}


def _open_plain(path: Path) -> BinaryIO:
    """Neither a link, which leads elsewhere, nor a pipe, on which opening waits for ever."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise OSError(f"{path} is not a plain file")
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat(follow_symlinks=False)
    return found.st_dev, found.st_ino


def _identities_above(path: Path) -> set[tuple[int, int]]:
    """Identities of what a path leads to and of every folder above that."""
    real = Path(os.path.realpath(path))
    identities = set()
    for part in (real, *real.parents):
        try:
            identities.add(_identity(part))
        except OSError:  # such as the prefix of a checkpoint, which is no file itself
            continue
    return identities
