"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO


def write_whole(path: Path, write: Callable[[TextIO], object]) -> None:
    """Writes a text file by way of a temporary one beside it, which is renamed; one that is there keeps its permissions.

    Args:
        path: of the file. A link stays one: what it points to is replaced.
        write: writes the content to the open file.

    Raises:
        OSError: it can't be written; a file that was there before is unchanged.
    """
    with _replaced(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def write_whole_bytes(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a binary file as `write_whole` does a text file.

    Raises:
        OSError: it can't be written; a file that was there before is unchanged.
    """
    with _replaced(path) as part, part.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def real_path(path: Path) -> Path:
    """The absolute path of what links lead to; Path.resolve raises where they lead in a circle."""
    return Path(os.path.realpath(path))


def replaced_name(name: str) -> str | None:
    """The name that a temporary file would have got, which a kill has left where nobody writes any more; None for others.

    Example:
        >>> replaced_name("._job.json.0a1b2c3d.part")
        '_job.json'
    """
    found = _TEMPORARY.fullmatch(name)
    return found[1] if found else None


_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.part", re.DOTALL)


@contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """The temporary file, which the block writes."""
    real = real_path(path)
    # Two machines may have processes of the same number.
    part = real.with_name(f".{real.name}.{os.urandom(4).hex()}.part")
    try:
        yield part
        if real.exists():
            part.chmod(real.stat().st_mode)
        part.replace(real)
    finally:
        part.unlink(missing_ok=True)
