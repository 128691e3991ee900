"""Writes a bundle folder whole or not at all."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from vmoe_export.bundle.bundle_target import check_replaceable, check_target
from vmoe_export.bundle.folder_swap import exchange, rename_to_free_name
from vmoe_export.bundle.working_folder import WorkingFolder, moved_aside, remove_bundle, sweep, working_folder
from vmoe_export.errors import ExportError
from vmoe_export.interruption import without_signals
from vmoe_runtime.bundle.manifest import MANIFEST_NAME
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.errors import BundleError


@contextmanager
def new_bundle(target: Path, *, force: bool, needed_bytes: int = 0, sources: Iterable[Path] = ()) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its name when the block ends well, and goes when it doesn't.

    At any time, also when the process is killed, the target is the old bundle or the new one, each of them whole.

    Args:
        target: where the bundle will be.
        force: replace a bundle that is already there.
        needed_bytes: about how large the bundle will be.
        sources: files and folders that the export reads, and that must stay.

    Raises:
        ExportError: the target exists, is no bundle, or can't be written.
    """
    sources = list(sources)
    place = target.absolute()
    with suppress(OSError):
        sweep(place)
    check_target(target, force=force, sources=sources)
    try:
        with ExitStack() as closing:
            try:
                _check_room(place.parent, needed_bytes)
                folder = closing.enter_context(working_folder(place))
            except OSError as error:
                raise ExportError(f"{place.parent} can't be written to: {error.strerror}") from None
            yield folder.path
            folder.path.chmod(0o777 & ~_umask())
            # Somebody else may have put something there meanwhile.
            check_target(target, force=force, sources=sources)
            _take_place(folder, target, place, sources)
    except OSError as error:
        raise ExportError(f"{target} could not be written: {error.strerror or error}") from None


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes `manifest.json` over the files that are in the folder, with their sizes and SHA-256s.

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
        Bundle.open(folder, verify=False)
    except BundleError as error:
        raise ExportError(f"the export made a bundle that can't be loaded: {error}") from None


def _check_room(parent: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(parent).free
    if free < needed_bytes:
        # Rounded apart, so that the two never read the same.
        raise ExportError(
            f"{parent} has {math.floor(free / 1e5) / 10:,.1f} MB free, and the bundle needs about "
            f"{math.ceil(needed_bytes / 1e5) / 10:,.1f} MB"
        )


def _take_place(folder: WorkingFolder, target: Path, place: Path, sources: Iterable[Path]) -> None:
    with without_signals():
        if not os.path.lexists(place):
            try:
                rename_to_free_name(folder.path, place)
            except FileExistsError:
                raise ExportError(f"{target} exists; it was made during this export") from None
        elif exchange(folder.path, place):
            try:
                # Looked at once more, here and below: nobody finds it under its name any more.
                check_replaceable(folder.path, target, sources)
            except BaseException:
                exchange(folder.path, place)
                raise
            folder.holds_old_bundle = True
        else:
            with moved_aside(place) as old:
                check_replaceable(old, target, sources)
                folder.path.rename(place)
            remove_bundle(old)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
