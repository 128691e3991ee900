"""Walks over a msgpack file by its headers, without reading what the headers describe.

A data shard is ONE msgpack object of up to gigabytes; a streaming unpacker would buffer each chunk whole and copy it. The
cursor only steps from header to header, so that arrays are read once, straight from the file into their memory.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Literal, NamedTuple

from vmoe_export.checkpoint.plain_file import PlainFile
from vmoe_export.errors import CheckpointError

Kind = Literal["a number", "a map", "an array", "a string", "bytes", "an extension"]

_MAX_TEXT_BYTES = 1 << 20  # far more than any name has

# Headers of one byte, which says the size, too.
_SHORT: Mapping[Kind, Mapping[int, int]] = {
    "a number": {size: size for size in range(0x80)},
    "a map": {0x80 + size: size for size in range(16)},
    "an array": {0x90 + size: size for size in range(16)},
    "a string": {0xA0 + size: size for size in range(32)},
    "bytes": {},
    "an extension": {0xD4 + power: 1 << power for power in range(5)},
}
# Headers whose first byte says how the size after it is written.
_LONG: Mapping[Kind, Mapping[int, str]] = {
    "a number": {0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"},
    "a map": {0xDE: ">H", 0xDF: ">I"},
    "an array": {0xDC: ">H", 0xDD: ">I"},
    "a string": {0xD9: ">B", 0xDA: ">H", 0xDB: ">I"},
    "bytes": {0xC4: ">B", 0xC5: ">H", 0xC6: ">I"},
    "an extension": {0xC7: ">B", 0xC8: ">H", 0xC9: ">I"},
}


class ByteSpan(NamedTuple):
    """Where bytes lie in a file."""

    start: int
    length: int


class MsgpackCursor:
    """A position in a msgpack file.

    Every method checks bounds and raises CheckpointError when the next object isn't of the kind it reads.
    """

    def __init__(self, file: PlainFile, position: int = 0, end: int | None = None) -> None:
        self.file = file
        self.position = position
        self.end = file.size if end is None else end

    def header(self, *kinds: Kind) -> int:
        """The size of the object of one of these kinds that starts here: pairs, elements or bytes; or the number."""
        byte = self._take(1)[0]
        for kind in kinds:
            if byte in _SHORT[kind]:
                return _SHORT[kind][byte]
            if layout := _LONG[kind].get(byte):
                return int(struct.unpack(layout, self._take(struct.calcsize(layout)))[0])
        raise self._not(kinds[0])

    def text(self) -> str:
        """A string, also when it is stored as bytes."""
        size = self.header("a string", "bytes")
        if size > _MAX_TEXT_BYTES:
            raise self._not("a string of sensible length")
        try:
            return self._take(size).decode()
        except UnicodeDecodeError:
            raise self._not("a string") from None

    def binary(self) -> ByteSpan:
        """A byte string: where it lies."""
        return self._skip(self.header("bytes"))

    def extension(self, expected: int) -> MsgpackCursor:
        """The payload of an extension of that type, with a cursor of its own."""
        size = self.header("an extension")
        (code,) = struct.unpack(">b", self._take(1))
        payload = self._skip(size)
        if code != expected:
            raise CheckpointError(f"unknown msgpack extension type {code} where type {expected} belongs")
        return MsgpackCursor(self.file, payload.start, payload.start + size)

    def rest(self, most: int) -> bytes:
        """All that is left, if that is no more than `most` bytes."""
        if self.end - self.position > most:
            raise self._not("an object of sensible length")
        return self._take(self.end - self.position)

    def true(self) -> None:
        """The value true."""
        if self._take(1) != b"\xc3":
            raise self._not("true")

    def _take(self, size: int) -> bytes:
        span = self._skip(size)
        # Through the buffer of the stream: headers lie close together.
        self.file.stream.seek(span.start)
        data = self.file.stream.read(size)
        if len(data) < size:  # the file has shrunk
            raise CheckpointError(f"it is cut short inside the value at byte {span.start}")
        return data

    def _skip(self, size: int) -> ByteSpan:
        start = self.position
        if size > self.end - start:
            raise CheckpointError(f"it is cut short inside the value at byte {start}")
        self.position = start + size
        return ByteSpan(start, size)

    def _not(self, kind: str) -> CheckpointError:
        return CheckpointError(f"not the expected msgpack: there is not {kind} before byte {self.position}")
