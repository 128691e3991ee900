"""Checks whole PNG and JPEG files.

Decoders accept many damaged files, but a damaged picture must not be classified. `plugins/service/picture_files.cc` applies
the same rules.
"""

from __future__ import annotations

import re
import struct
import zlib
from itertools import islice

from vmoe_runtime.errors import ImageError

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_MOST_SCANS = 100  # maximum number of scans in a progressive JPEG; each scan covers the whole picture
_MOST_PARTS = 1 << 16  # maximum number of chunks in a PNG, of segments and padding bytes in a JPEG, or of restarts in a scan
_MARKER = re.compile(rb"\xff[^\0\xff\xd0-\xd7]")  # a marker that ends a scan
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_ENDS_EARLY, _TOO_MANY = "it ends too early", "it has too many parts"
_BAD_MARKER = "a marker is damaged, or of a kind that is not read"


def checked_picture(file: bytes, name: str, transparent: bool = False) -> bytes:
    """Check a picture file, and return its bytes without the PNG chunks that the pixels don't need.

    Some of these chunks would break decoders. If the file is not a PNG, all of its bytes are returned.

    Args:
        file: bytes of the file.
        name: name of the file in messages.
        transparent: whether to keep the chunk that declares which colours are transparent.

    Raises:
        ImageError: the file is cut off, the checksum of a PNG chunk is wrong, or a marker in a JPEG is damaged.
    """
    try:
        return (
            _checked_png(file, transparent)
            if file.startswith(_PNG)
            else _checked_jpeg(file)
            if file.startswith(_JPEG)
            else file
        )
    except (ValueError, IndexError, struct.error) as error:
        why = str(error) if type(error) is ValueError else _ENDS_EARLY
        raise ImageError(f"{name} is not a readable image ({why})") from None


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def _checked_png(file: bytes, transparent: bool) -> bytes:
    needed = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"eXIf", *([b"tRNS"] if transparent else []))
    kept, position, color, depth, has_palette = [_PNG], len(_PNG), 0, 0, False
    for part in range(_MOST_PARTS):
        length, kind = struct.unpack_from(">I4s", file, position)
        end = position + 12 + length
        (checksum,) = struct.unpack_from(">I", file, end - 4)
        _require(checksum == zlib.crc32(file[position + 4 : end - 4]), "the checksum of a chunk is wrong")
        if part == 0:
            depth, color, compression, filtering = file[position + 16 : position + 20]
            is_kind = kind == b"IHDR" and length == 13 and compression == filtering == 0
            _require(is_kind and (depth >= 8 or color in (0, 3)), "it has no header of a PNG")
        has_palette |= kind == b"PLTE" and length > 0
        _require(kind != b"IDAT" or color != 3 or has_palette, "it has no palette")
        has_key = transparent and kind == b"tRNS" and color in (0, 2)
        _require(
            not has_key or depth in (1, 8), "its transparent colour is not of 8 bits: make it a PNG of 8 bits with alpha"
        )
        if kind in needed:
            kept.append(file[position:end])
        else:
            _require(kind[0] >= ord("a"), "it has a chunk of unknown kind")
        if kind == b"IEND":
            return b"".join(kept)
        position = end
    raise ValueError(_TOO_MANY)


def _checked_jpeg(file: bytes) -> bytes:
    position, seen, has_restarts, scans = len(_JPEG), set[int](), False, 0
    for _ in range(_MOST_PARTS):
        mark, marker = file[position], file[position + 1]
        if mark == marker == 0xFF:  # padding
            position += 1
            continue
        if marker == 0xD9:
            _require(scans > 0, _ENDS_EARLY)
            return file
        is_frame = marker in (0xC0, 0xC1, 0xC2)
        _require(mark == 0xFF and (is_frame or marker in _SEGMENTS or 0xE0 <= marker <= 0xEF), _BAD_MARKER)
        length = int.from_bytes(file[position + 2 : position + 4], "big")
        content = file[position + 4 : position + 2 + length]
        if is_frame:
            _require(_FRAME not in seen and len(content) > 5 and (content[5] != 4 or _ADOBE in seen), _BAD_MARKER)
        if marker == 0xDD:
            has_restarts = any(content)
        seen.add(_FRAME if is_frame else marker)
        position += 2 + length
        if marker == 0xDA:
            scans += 1
            end = _MARKER.search(file, position)
            _require(end is not None, _ENDS_EARLY)
            assert end is not None
            found = islice(_RESTART.finditer(file, position, end.start()), _MOST_PARTS)
            restarts = [restart[1][0] & 7 for restart in found]
            _require(len(restarts) < _MOST_PARTS, _TOO_MANY)
            in_order = [number & 7 for number in range(len(restarts))] if has_restarts else []
            _require(seen >= {_FRAME, 0xC4, 0xDB} and restarts == in_order and scans <= _MOST_SCANS, _BAD_MARKER)
            position = end.start()
    raise ValueError(_TOO_MANY)


_FRAME, _ADOBE = 0xC0, 0xEE
_SEGMENTS = (0xC4, 0xDA, 0xDB, 0xDD, 0xFE)
