"""Where a command's `--json FILE` goes: to a file, whole or not at all, or to standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from vmoe_runtime.bundle.manifest import MANIFEST_NAME
from vmoe_runtime.command_line import CommandError
from vmoe_runtime.whole_files import real_path, write_whole

STANDARD_OUTPUT = "-"


def check_target(target: str | None, used: Iterable[Path | None] = ()) -> None:
    """Refuses a file that can't or mustn't be written, before anybody waits for what is to stand in it.

    Args:
        target: what --json says; None for nothing.
        used: files and bundles that the command reads or writes besides.

    Raises:
        CommandError: its folder isn't there; something that is no plain file has its name; it is one of the files used, or
            would lie in one of the bundles.
    """
    if target is None or target == STANDARD_OUTPUT:
        return
    path = Path(target)
    if not path.parent.is_dir():
        raise CommandError(f"{path} can't be written: there is no folder {path.parent}")
    if path.exists() and not path.is_file():
        raise CommandError(f"{path} can't be written: it is there already and no plain file")
    real = real_path(path)
    taken = {real, real.parent} if (real.parent / MANIFEST_NAME).exists() else {real}
    for other in used:
        if other is not None and real_path(other) in taken:
            raise CommandError(f"{path} can't be written: {other} is used by this command; choose another file for --json")


def people_stream(target: str | None) -> TextIO:
    """Where what people read goes: standard output belongs to the JSON where that was asked for."""
    return sys.stderr if target == STANDARD_OUTPUT else sys.stdout


def write_json(target: str | None, content: Mapping[str, Any]) -> None:
    """Writes the content as JSON: a file by way of a temporary one beside it, which is then renamed.

    Args:
        target: what --json says; None for nowhere.
        content: what to write, without NaN and infinities.

    Raises:
        CommandError: it can't be written; a file that was there before is unchanged.
    """
    if target is None:
        return
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    if target == STANDARD_OUTPUT:
        sys.stdout.write(text)
        return
    write_file(Path(target), lambda file: file.write(text))


def write_file(path: Path, write: Callable[[TextIO], object]) -> None:
    """Writes a text file that a command was asked for, whole or not at all.

    Raises:
        CommandError: it can't be written; a file that was there before is unchanged.
    """
    try:
        write_whole(path, write)
    except OSError as error:
        raise CommandError(f"{path} can't be written: {error.strerror}") from None
