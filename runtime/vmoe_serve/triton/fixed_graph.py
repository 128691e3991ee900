"""A bundle's graph as one profile's: its setting is constant, `image` is the only input, and the only output the model's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vmoe_runtime.bundle.external_data import fields

_MODEL_GRAPH = 7
_GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 5, 11, 12
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW_DATA = 1, 2, 8, 9
_VALUE_NAME = 1
_INT64 = 7


def fixed_graph(model: bytes, output: str, setting: Mapping[str, np.ndarray[Any, np.dtype[np.int64]]]) -> bytes:
    """Writes the values of a setting into a graph.

    Args:
        model: a bundle's canonical graph, a serialized and checked ONNX model.
        output: the output to keep; those that say where tokens went are dropped.
        setting: by name of the graph input that becomes constant; empty for a model that has none.

    Returns:
        A serialized ONNX model that reads the same external data.
    """
    return b"".join(
        _field(number, _fixed(value, output, setting) if number == _MODEL_GRAPH and isinstance(value, memoryview) else value)
        for number, value in _values(memoryview(model))
    )


def _fixed(graph: memoryview, output: str, setting: Mapping[str, np.ndarray[Any, np.dtype[np.int64]]]) -> bytes:
    def is_kept(number: int, value: int | memoryview) -> bool:
        if not isinstance(value, memoryview):
            return True
        if number == _GRAPH_OUTPUT:
            return _name(value, _VALUE_NAME) == output
        if number == _GRAPH_INPUT:
            return _name(value, _VALUE_NAME) not in setting
        return number != _GRAPH_INITIALIZER or _name(value, _TENSOR_NAME) not in setting

    kept = [_field(number, value) for number, value in _values(graph) if is_kept(number, value)]
    return b"".join([*kept, *(_field(_GRAPH_INITIALIZER, _tensor(name, values)) for name, values in setting.items())])


def _values(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a model or graph; neither has numbers of a fixed size."""
    return ((number, value) for number, value in fields(message) if value is not None)


def _name(message: memoryview, number: int) -> str:
    return next(
        bytes(value).decode() for found, value in fields(message) if found == number and isinstance(value, memoryview)
    )


def _tensor(name: str, values: np.ndarray[Any, np.dtype[np.int64]]) -> bytes:
    return b"".join(
        [
            *(_field(_TENSOR_DIMS, size) for size in values.shape),
            _field(_TENSOR_TYPE, _INT64),
            _field(_TENSOR_NAME, name.encode()),
            _field(_TENSOR_RAW_DATA, values.astype("<i8").tobytes()),
        ]
    )


def _field(number: int, value: int | bytes | memoryview) -> bytes:
    if isinstance(value, int):
        return _encoded_varint(number << 3) + _encoded_varint(value)
    return _encoded_varint(number << 3 | 2) + _encoded_varint(len(value)) + value


def _encoded_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
