"""Reads files that people write."""

from __future__ import annotations

from pathlib import Path

_MAX_BYTES = 16 << 20


def read_small(path: Path) -> bytes:
    """All of a file, or of a pipe, as a shell makes one of `<(...)`.

    Raises:
        OSError: it can't be read.
        ValueError: it has more than 16 MiB, or no end; or the path has a zero byte.
    """
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ValueError(f"it has more than {_MAX_BYTES >> 20} MiB")
    return data
