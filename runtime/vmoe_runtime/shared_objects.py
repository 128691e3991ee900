"""What an ELF shared library says of itself, read from its file: loading a library to find out can end the process."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_DYNAMIC = 6  # section type
_NEEDED = 1  # dynamic tag


def needed_libraries(library: Path) -> list[str]:
    """Names of the shared libraries that a 64-bit ELF file asks the loader for; empty for any other file."""
    try:
        with library.open("rb") as file:
            return _needed(file)
    except (OSError, struct.error, IndexError):
        return []


def _needed(file: BinaryIO) -> list[str]:
    header = file.read(64)
    if not header.startswith(b"\x7fELF\x02\x01"):
        return []
    (table,) = struct.unpack_from("<Q", header, 40)
    entry_size, count = struct.unpack_from("<HH", header, 58)
    # Type, offset, size, and the index of the section that holds the strings.
    sections = [
        struct.unpack_from("<4xI16xQQI", _read(file, table + index * entry_size, entry_size)) for index in range(count)
    ]
    for kind, offset, size, strings in sections:
        if kind == _DYNAMIC:
            entries = struct.iter_unpack("<QQ", _read(file, offset, size // 16 * 16))
            text = _read(file, *sections[strings][1:3])
            return [text[at : text.index(b"\0", at)].decode(errors="replace") for tag, at in entries if tag == _NEEDED]
    return []


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)
