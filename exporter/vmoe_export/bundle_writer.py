"""Writes a bundle folder whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vmoe_export.errors import ExportError
from vmoe_runtime.manifest import FORMAT, MANIFEST_NAME, parse_manifest


@contextmanager
def new_bundle(target: Path, *, force: bool, needed_bytes: int = 0) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its name when the block ends well, and goes when it doesn't.

    Args:
        target: where the bundle will be.
        force: replace a bundle that is already there.
        needed_bytes: about how large the bundle will be.

    Raises:
        ExportError: the target exists, is no bundle, or can't be written.
    """
    parent = target.absolute().parent
    check_target(target, force=force)
    try:
        free = shutil.disk_usage(parent).free
        if free < needed_bytes:
            raise ExportError(f"{parent} has {free >> 20} MiB free, and the bundle needs about {needed_bytes >> 20} MiB")
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=parent))
    except OSError as error:
        raise ExportError(f"{parent} can't be written to: {error.strerror}") from None
    try:
        yield folder
        folder.chmod(0o777 & ~_umask())
        # Somebody else may have put something there meanwhile.
        check_target(target, force=force)
        _take_place(folder, target, parent)
    except OSError as error:
        raise ExportError(f"{target} could not be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_target(target: Path, *, force: bool) -> None:
    """Refuses a target that can't become a bundle.

    Raises:
        ExportError: it exists and `force` is not given, or it is something else than a bundle.
    """
    if not target.name:
        raise ExportError(f"'{target}' is not a name for a bundle")
    try:
        if not target.absolute().parent.is_dir():
            raise ExportError(f"{target.absolute().parent} is not there; make the folder first")
        if os.path.lexists(target):
            if not force:
                raise ExportError(f"{target} exists; --force replaces it")
            if target.is_symlink() or not _is_bundle(target):
                raise ExportError(f"{target} exists and is not a bundle, so it is not replaced")
    except OSError as error:
        raise ExportError(f"{target} can't be written: {error.strerror}") from None


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes `manifest.json` over the files that are in the folder, with their sizes and SHA-256s."""
    files = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files[path.name] = {"sha256": digest, "bytes": path.stat().st_size}
    text = json.dumps({**content, "files": files}, indent=1, allow_nan=False).encode() + b"\n"
    parse_manifest(text)
    (folder / MANIFEST_NAME).write_bytes(text)


def _is_bundle(folder: Path) -> bool:
    # Other programs write a manifest.json too; only a folder that says it is a bundle may go.
    try:
        content = json.loads((folder / MANIFEST_NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def _take_place(folder: Path, target: Path, parent: Path) -> None:
    if not target.exists():
        folder.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=parent))
    target.rename(old / "bundle")
    try:
        folder.rename(target)
    except BaseException:
        (old / "bundle").rename(target)
        old.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
