"""Walks over a msgpack file by its headers, without reading what the headers describe.

A data shard is ONE msgpack object of up to gigabytes; a streaming unpacker would buffer each chunk whole and copy it. The
cursor only steps from header to header, so that arrays are read once, straight from the file to their place.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NoReturn

from vmoe_export.checkpoint.plain_file import PlainFile
from vmoe_export.errors import CheckpointError

_MAX_TEXT_BYTES = 1 << 20  # far more than any name has


@dataclass(frozen=True)
class ByteSpan:
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

    def map_header(self) -> int:
        """Number of key-value pairs of the map that starts here."""
        byte = self._byte()
        if 0x80 <= byte <= 0x8F:
            return byte & 0x0F
        return self._sized(byte, {0xDE: ">H", 0xDF: ">I"}, "a map")

    def array_header(self) -> int:
        """Number of elements of the array that starts here."""
        byte = self._byte()
        if 0x90 <= byte <= 0x9F:
            return byte & 0x0F
        return self._sized(byte, {0xDC: ">H", 0xDD: ">I"}, "an array")

    def text(self) -> str:
        """A string, also when it is stored as bytes."""
        byte = self._byte()
        if 0xA0 <= byte <= 0xBF:
            size = byte & 0x1F
        else:
            size = self._sized(
                byte,
                {0xD9: ">B", 0xDA: ">H", 0xDB: ">I", 0xC4: ">B", 0xC5: ">H", 0xC6: ">I"},
                "a string",
            )
        if size > _MAX_TEXT_BYTES:
            self._fail("a string of sensible length")
        try:
            return self._take(size).decode()
        except UnicodeDecodeError:
            self._fail("a string")

    def integer(self) -> int:
        """A whole number that is not negative."""
        byte = self._byte()
        if byte < 0x80:
            return byte
        return self._sized(byte, {0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"}, "a number")

    def binary(self) -> ByteSpan:
        """A byte string: where it lies."""
        return self._skip(self._sized(self._byte(), {0xC4: ">B", 0xC5: ">H", 0xC6: ">I"}, "bytes"))

    def extension(self) -> tuple[int, MsgpackCursor]:
        """Type code and payload of an extension; the payload gets a cursor of its own."""
        byte = self._byte()
        if 0xD4 <= byte <= 0xD8:
            size = 1 << (byte - 0xD4)
        else:
            size = self._sized(byte, {0xC7: ">B", 0xC8: ">H", 0xC9: ">I"}, "an extension")
        (code,) = struct.unpack(">b", self._take(1))
        payload = self._skip(size)
        return code, MsgpackCursor(self.file, payload.start, payload.start + size)

    def rest(self, most: int) -> bytes:
        """All that is left, if that is no more than `most` bytes."""
        if self.end - self.position > most:
            self._fail("an object of sensible length")
        return self._take(self.end - self.position)

    def true(self) -> None:
        """The value true."""
        if self._byte() != 0xC3:
            self._fail("true")

    def _byte(self) -> int:
        return self._take(1)[0]

    def _take(self, size: int) -> bytes:
        span = self._skip(size)
        # Through the buffer of the stream: headers lie close together.
        self.file.stream.seek(span.start)
        data = self.file.stream.read(size)
        if len(data) < size:  # the file has shrunk
            raise CheckpointError(f"it is cut short at byte {span.start}")
        return data

    def _skip(self, size: int) -> ByteSpan:
        start = self.position
        if size > self.end - start:
            raise CheckpointError(f"it is cut short at byte {start}")
        self.position = start + size
        return ByteSpan(start, size)

    def _sized(self, byte: int, formats: dict[int, str], kind: str) -> int:
        if byte not in formats:
            self._fail(kind)
        layout = formats[byte]
        (value,) = struct.unpack(layout, self._take(struct.calcsize(layout)))
        return int(value)

    def _fail(self, kind: str) -> NoReturn:
        raise CheckpointError(f"not the expected msgpack: there is not {kind} before byte {self.position}")
