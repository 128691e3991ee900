"""Text files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TextIO


def write_whole(path: Path, write: Callable[[TextIO], object]) -> None:
    """Writes a file by way of a temporary one beside it, which is then renamed; one that is there keeps its permissions.

    Args:
        path: of the file. A link stays one: what it points to is replaced.
        write: writes the content to the open file.

    Raises:
        OSError: it can't be written; a file that was there before is unchanged.
    """
    # Path.resolve raises where links lead in a circle.
    real = Path(os.path.realpath(path))
    part = real.with_name(f".{real.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if real.exists():
            part.chmod(real.stat().st_mode)
        part.replace(real)
    finally:
        part.unlink(missing_ok=True)
