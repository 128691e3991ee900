"""Read small files that users write."""

from __future__ import annotations

from pathlib import Path

_MAX_BYTES = 16 << 20


def read_small(path: Path) -> bytes:
    """Read a complete file or a pipe such as the shell's `<(...)`.

    Raises:
        OSError: the file can't be read.
        ValueError: the file is larger than 16 MiB, the pipe is endless, or the path contains a zero byte.
    """
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ValueError(f"it has more than {_MAX_BYTES >> 20} MiB")
    return data
