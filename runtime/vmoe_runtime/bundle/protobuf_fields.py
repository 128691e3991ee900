"""The fields of a protobuf message, read from its bytes: as much of the wire format as ONNX graphs need."""

from __future__ import annotations

from collections.abc import Iterator


def fields(buffer: memoryview) -> Iterator[tuple[int, int | memoryview | None]]:
    """(field number, value) of each field, in order.

    The value is an int for a varint, 0 to 2^64 - 1; a view of the payload where the field is length-delimited; and None for
    numbers of a fixed size.

    Raises:
        ValueError, IndexError: the bytes are no such message.
    """
    position, end = 0, len(buffer)
    while position < end:
        # Nearly all tags and sizes are of one byte, and a graph has tens of thousands.
        key = buffer[position]
        position += 1
        if key >= 0x80:
            key, position = _varint(buffer, position - 1)
            # Runtimes drop the bits above, and would see another field than the one checked here.
            if key >= 1 << 32:
                raise ValueError("a field number of more than 29 bits")
        wire_type = key & 7
        value: int | memoryview | None = None
        if wire_type == 2:
            size = buffer[position]
            position += 1
            if size >= 0x80:
                size, position = _varint(buffer, position - 1)
            start, position = position, position + size
            value = buffer[start:position]
        elif wire_type == 0:
            value, position = _varint(buffer, position)
        elif wire_type == 1:
            position += 8
        elif wire_type == 5:
            position += 4
        else:
            raise ValueError(f"wire type {wire_type}")
        if position > end:
            raise ValueError("it is cut short")
        yield key >> 3, value


def messages(buffer: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(field number, payload) of each length-delimited field."""
    for number, value in fields(buffer):
        if isinstance(value, memoryview):
            yield number, value


def _varint(buffer: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, position
    raise ValueError("a number of more than 64 bits")
