"""Step through a msgpack file header by header, without reading the payloads.

A data shard is ONE msgpack object, which may be several gigabytes long. A streaming unpacker would buffer and copy whole
chunks. In contrast, the cursor only locates the data. Each array is later read once, from the file directly into its final
memory.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Literal, NamedTuple

from vmoe_export.checkpoint.plain_file import PlainFile
from vmoe_export.errors import CheckpointError

Kind = Literal["a number", "a map", "an array", "a string", "bytes", "an extension"]

_MAX_TEXT_BYTES = 1 << 20  # limit for one string; far longer than any name

# One-byte headers, by kind. Each mapping goes from a header's byte to the number or size that the byte encodes. `header`
# returns this value.
_SHORT: Mapping[Kind, Mapping[int, int]] = {
    "a number": {size: size for size in range(0x80)},
    "a map": {0x80 + size: size for size in range(16)},
    "an array": {0x90 + size: size for size in range(16)},
    "a string": {0xA0 + size: size for size in range(32)},
    "bytes": {},
    "an extension": {0xD4 + power: 1 << power for power in range(5)},
}
# Longer headers, by kind. Each mapping goes from a header's first byte to the struct format of the size that follows the
# byte.
_LONG: Mapping[Kind, Mapping[int, str]] = {
    "a number": {0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"},
    "a map": {0xDE: ">H", 0xDF: ">I"},
    "an array": {0xDC: ">H", 0xDD: ">I"},
    "a string": {0xD9: ">B", 0xDA: ">H", 0xDB: ">I"},
    "bytes": {0xC4: ">B", 0xC5: ">H", 0xC6: ">I"},
    "an extension": {0xC7: ">B", 0xC8: ">H", 0xC9: ">I"},
}


class ByteSpan(NamedTuple):
    """A byte range in a file."""

    start: int
    length: int


class MsgpackCursor:
    """A position in a msgpack file.

    Each method checks bounds and raises CheckpointError if the next object is not of the expected kind.
    """

    def __init__(self, file: PlainFile, position: int = 0, end: int | None = None) -> None:
        self.file = file
        self.position = position
        self.end = file.size if end is None else end

    def header(self, *kinds: Kind) -> int:
        """Read the header of the next object, which must be of one of `kinds`.

        Returns:
            For a number, its value. Otherwise, the size of the object: the number of key-value pairs in a map, of elements
            in an array, or of bytes in an object of another kind.
        """
        byte = self._take(1)[0]
        for kind in kinds:
            if byte in _SHORT[kind]:
                return _SHORT[kind][byte]
            if layout := _LONG[kind].get(byte):
                return int(struct.unpack(layout, self._take(struct.calcsize(layout)))[0])
        raise self._not(kinds[0])

    def text(self) -> str:
        """Read a string, which may be stored as bytes."""
        size = self.header("a string", "bytes")
        if size > _MAX_TEXT_BYTES:
            raise self._not("a string of sensible length")
        try:
            return self._take(size).decode()
        except UnicodeDecodeError:
            raise self._not("a string") from None

    def binary(self) -> ByteSpan:
        """Skip a byte string, and return the range that its bytes have in the file."""
        return self._skip(self.header("bytes"))

    def extension(self, expected: int) -> MsgpackCursor:
        """Skip an extension of type `expected`, and return a cursor over the extension's payload."""
        size = self.header("an extension")
        (code,) = struct.unpack(">b", self._take(1))
        payload = self._skip(size)
        if code != expected:
            raise CheckpointError(f"unknown msgpack extension type {code} instead of {expected}")
        return MsgpackCursor(self.file, payload.start, payload.start + size)

    def rest(self, most: int) -> bytes:
        """Read all remaining bytes. Raise CheckpointError if there are more than `most` bytes."""
        if self.end - self.position > most:
            raise self._not("an object of sensible length")
        return self._take(self.end - self.position)

    def true(self) -> None:
        """Read the value true."""
        if self._take(1) != b"\xc3":
            raise self._not("true")

    def _take(self, size: int) -> bytes:
        span = self._skip(size)
        # Headers are close together, so use the buffered stream.
        self.file.stream.seek(span.start)
        data = self.file.stream.read(size)
        if len(data) < size:  # the file shrank while it was read
            raise CheckpointError(f"it is cut short inside the value at byte {span.start}")
        return data

    def _skip(self, size: int) -> ByteSpan:
        start = self.position
        if size > self.end - start:
            raise CheckpointError(f"it is cut short inside the value at byte {start}")
        self.position = start + size
        return ByteSpan(start, size)

    def _not(self, kind: str) -> CheckpointError:
        return CheckpointError(f"unexpected msgpack: expected {kind} before byte {self.position}")
