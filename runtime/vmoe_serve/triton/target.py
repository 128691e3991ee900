"""Where a repository may be written, and how it gets there: whole, and over nothing but an old one of this command."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vmoe_tools.command_line import CommandError

MARKER_NAME = "vmoe-serve.json"
FORMAT = "vmoe-triton-repository"


def check_repository_target(target: Path, *, force: bool) -> None:
    """Refuses a target that can't become a repository.

    Args:
        target: where the repository will be.
        force: it may replace one that this command wrote.

    Raises:
        CommandError: there is something already, or no folder to write in.
    """
    if target.name in {"", ".."}:
        raise CommandError(f"'{target}' is not a name for a repository")
    if not target.absolute().parent.is_dir():
        raise CommandError(f"{target.absolute().parent} is not there; make the folder first")
    if not os.path.lexists(target):
        return
    if not force:
        raise CommandError(f"{target} exists; --force replaces it if vmoe-serve wrote it")
    _check_replaceable(target)


def marker(files: list[str]) -> bytes:
    """The content of the file that says whose a repository is, and what belongs to it."""
    return (json.dumps({"format": FORMAT, "files": sorted(files)}, indent=1) + "\n").encode()


@contextmanager
def written_beside(target: Path, *, force: bool) -> Iterator[Path]:
    """A new folder beside the target, which gets its name at the end of the block, or goes where that fails.

    Args:
        target: what it becomes.
        force: it may replace an old repository.

    Raises:
        CommandError: as `check_repository_target`, of what is there by then.
        OSError: it can't be written.
    """
    written = _beside(target)
    written.mkdir()
    try:
        yield written
        check_repository_target(target, force=force)
        if os.path.lexists(target):
            _replace(target, written)
        else:
            written.rename(target)
    finally:
        shutil.rmtree(written, ignore_errors=True)


def _replace(target: Path, written: Path) -> None:
    aside = _beside(target)
    target.rename(aside)
    try:
        written.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    shutil.rmtree(aside)


def _beside(target: Path) -> Path:
    return target.absolute().with_name(f".{target.name}.{secrets.token_hex(4)}.vmoe-serve")


def _check_replaceable(target: Path) -> None:
    try:
        marked = None if target.is_symlink() else json.loads((target / MARKER_NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        marked = None
    if not isinstance(marked, dict) or marked.get("format") != FORMAT or not isinstance(marked.get("files"), list):
        raise CommandError(f"{target} exists and was not written by vmoe-serve, so it is not replaced")
    ours = {MARKER_NAME, *map(str, marked["files"])}
    for folder, folders, names in os.walk(target):
        for path in map(Path(folder).joinpath, [*names, *folders]):
            # Python keeps what it compiled beside a model that Triton has run.
            is_compiled = path.parent.name == "__pycache__" and path.suffix == ".pyc"
            name = str(path.relative_to(target))
            if name not in ours and not is_compiled and (path.is_symlink() or not path.is_dir()):
                raise CommandError(f"{target} holds '{name}', which vmoe-serve didn't write, so it is not replaced")
