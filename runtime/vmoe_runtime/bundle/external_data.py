"""Which files an ONNX graph would open, read from its bytes without onnx.

A runtime opens whatever external-data location a graph names. A bundle may come from anywhere, so every location is
checked before any runtime sees the graph. Field numbers are those of onnx.proto3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vmoe_runtime.bundle.protobuf_fields import fields, messages
from vmoe_runtime.errors import BundleError

# message -> {field number: message of that field}: every path from ModelProto to a TensorProto.
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse_tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse_tensor",
        23: "sparse_tensor",
    },
    "sparse_tensor": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_TENSOR_NAME = 8
_MAX_DEPTH = 64


@dataclass(frozen=True)
class ExternalData:
    """Where the data of one tensor lies: its name and a file name as written in the graph, offset and length in bytes."""

    name: bytes
    location: str
    offset: int
    length: int | None


def external_data(graph: bytes) -> list[ExternalData]:
    """Every external-data reference of a serialized ONNX model.

    Raises:
        BundleError: the bytes are not a readable ONNX model.
    """
    try:
        references: list[ExternalData] = []
        _collect(memoryview(graph), "model", 0, references)
        return references
    except (IndexError, ValueError) as error:
        raise BundleError(f"not a readable ONNX model ({error})") from None


def _collect(buffer: memoryview, message: str, depth: int, references: list[ExternalData]) -> None:
    """Appends the references of one message and of all that it contains."""
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    children = _CHILDREN[message]
    entries: dict[str, str] = {}
    name = b""
    for number, value in fields(buffer):
        if not isinstance(value, memoryview):
            continue
        child = children.get(number)
        if child is None:
            if message == "tensor" and number == _TENSOR_NAME:
                name = bytes(value)
            continue
        if child == "entry":
            pair = {n: bytes(v).decode() for n, v in messages(value)}
            if entries.setdefault(pair.get(1, ""), pair.get(2, "")) != pair.get(2, ""):
                raise ValueError("external data that contradicts itself")
        else:
            _collect(value, child, depth + 1, references)
    if entries:
        length = entries.get("length")
        references.append(
            ExternalData(
                name,
                entries.get("location", ""),
                _bytes(entries.get("offset", "0")),
                None if length is None else _bytes(length),
            )
        )


def _bytes(text: str) -> int:
    # int() would also take spaces, signs and underscores, which a runtime reads otherwise.
    if not re.fullmatch("[0-9]{1,18}", text):
        raise ValueError(f"{text[:40]!r} is not a number of bytes")
    return int(text)
