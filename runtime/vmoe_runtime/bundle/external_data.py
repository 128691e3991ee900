"""Finds the files that an ONNX graph would open. The module parses the graph's bytes without the package onnx.

A runtime opens every external-data location in a graph, and a bundle may come from anywhere. So every location is checked
before any runtime loads the graph. The field numbers are those of onnx.proto3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from vmoe_runtime.errors import BundleError

MESSAGES: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 8: "opset", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse_tensor"},
    "function": {7: "node", 9: "opset", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse_tensor", 23: "sparse_tensor"},
    "sparse_tensor": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "opset": {},
    "entry": {},
}
"""The messages inside each message, by field number. They include every path from ModelProto to a tensor or operator set."""

MAX_GRAPH_DEPTH = 64
"""Maximum depth of nested messages."""

MAX_OPSET = 1000
"""The highest version of an operator set that a graph may import: a runtime may count up to it one by one."""

MAX_BYTE_DIGITS = 18
"""Maximum number of digits of an offset or a length, so that any digits fit into 64 bits."""
_KEYS = {b"location", b"offset", b"length"}  # allowed keys; others, such as prepacked_0, make ONNX Runtime read more data

ExternalData = tuple[str, int, int]
"""The location of a tensor's data: a file name as written in the graph, offset and length in bytes, 0 if not given."""


@dataclass
class _Function:
    """A function's name, and the types of the ops that it calls."""

    name: bytes = b""
    called: set[bytes] = field(default_factory=set)


def external_data(graph: bytes) -> list[ExternalData]:
    """Return every external-data reference of a serialized ONNX model.

    Raises:
        BundleError: the bytes are not a readable ONNX model, or the calls between the model's functions are nested too
            deeply.
    """
    references: list[ExternalData] = []
    functions: list[_Function] = []
    try:
        _collect(memoryview(graph), "model", 0, references, functions, _Function())
        _check_calls(functions)
    except (IndexError, ValueError) as error:
        raise BundleError(f"not a readable ONNX model ({error})") from None
    return references


def _check_calls(functions: list[_Function]) -> None:
    """Refuse functions whose calls are nested more than two deep.

    Deeper calls could exhaust a runtime's stack.

    Raises:
        ValueError: the calls are nested too deeply.
    """
    names = {function.name for function in functions}
    callers = {function.name for function in functions if function.called & names}
    if any(function.called & callers for function in functions):
        raise ValueError("functions that call one another too deeply")


def _collect(
    buffer: memoryview,
    message: str,
    depth: int,
    references: list[ExternalData],
    functions: list[_Function],
    function: _Function,
) -> None:
    """Collect the external-data references and the functions of a protobuf message and its nested messages.

    The references are appended to `references`, and the functions to `functions`. `function` is the function that contains
    the message.
    """
    if depth > MAX_GRAPH_DEPTH:
        raise ValueError("nested too deeply")
    children = MESSAGES[message]
    entries: dict[bytes, bytes] = {}
    for number, value in fields(buffer):
        if not isinstance(value, memoryview):
            if message == "opset" and number == 2 and value is not None and value > MAX_OPSET:
                raise ValueError(f"an operator set of a version above {MAX_OPSET}")
            continue
        child = children.get(number)
        if child == "entry":
            _add_entry(value, entries)
        elif child is not None:
            inner = function
            if child == "function":
                functions.append(inner := _Function())
            _collect(value, child, depth + 1, references, functions, inner)
        elif (message, number) == ("node", 4):
            function.called.add(bytes(value))
        elif (message, number) == ("function", 1):
            function.name = bytes(value)
    if entries:
        if unknown := entries.keys() - _KEYS:
            raise ValueError(f"external data with {min(unknown).decode(errors='replace')!r:.60}")
        offset, length = (_bytes(entries.get(key, b"0")) for key in (b"offset", b"length"))
        references.append((entries.get(b"location", b"").decode(errors="replace"), offset, length))


def _add_entry(buffer: memoryview, entries: dict[bytes, bytes]) -> None:
    pair = {number: bytes(value) for number, value in fields(buffer) if isinstance(value, memoryview)}
    if entries.setdefault(pair.get(1, b""), pair.get(2, b"")) != pair.get(2, b""):
        raise ValueError("external data that contradicts itself")


def _bytes(text: bytes) -> int:
    # Check the digits first: int() also accepts spaces, signs and underscores, which a runtime may read differently.
    if not (text.isdigit() and len(text) <= MAX_BYTE_DIGITS):
        raise ValueError(f"'{text[:40].decode(errors='replace')}' is not a number of bytes")
    return int(text)


def fields(buffer: memoryview) -> Iterator[tuple[int, int | memoryview | None]]:
    """Yield (field number, value) for each field of a protobuf message, in order.

    The value depends on the type of the field:

    - varint: an int from 0 to 2^64 - 1
    - length-delimited field: a view of the payload
    - field of a fixed size: None

    Raises:
        ValueError, IndexError: the bytes are not a protobuf message.
    """
    position, end = 0, len(buffer)
    while position < end:
        # A graph has tens of thousands of tags and sizes, and nearly all of them are one byte long. Reading such a byte
        # here is faster than calling `_varint`.
        key = buffer[position]
        position += 1
        if key >= 0x80:
            key, position = _varint(buffer, position - 1)
            # Runtimes keep only the lowest 32 bits of the key. So they would read a different field from the one that is
            # checked here.
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
