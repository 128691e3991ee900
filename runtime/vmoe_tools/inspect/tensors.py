"""Lists a bundle's tensors. It reads only the header of `weights.safetensors`, not the tensors' data."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeGuard

from vmoe_runtime.bundle.manifest import WEIGHTS_NAME
from vmoe_runtime.bundle.strict_json import parse_json
from vmoe_runtime.errors import BundleError
from vmoe_runtime.precisions import STORED_ELEMENTS

_MAX_HEADER_BYTES = 16 << 20
_MAX_EXTENT = 2**53


@dataclass(frozen=True)
class ListedTensor:
    """A tensor of the weights file.

    Attributes:
        name: name of the parameter in the official checkpoint format.
        dtype: data type, such as "float32" or "bfloat16".
        shape: dimensions; empty for a scalar.
        bytes: size of the data.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int

    @property
    def elements(self) -> int:
        """The number of elements of the tensor."""
        return math.prod(self.shape)

    @property
    def is_scale(self) -> bool:
        """Whether the tensor contains the scales of an int8 or int4 kernel.

        The scales are part of the kernel's encoding, not parameters.
        """
        return self.name.rpartition("/")[2] == "kernel_scale"


def read_tensors(weights: BinaryIO, size: int) -> tuple[ListedTensor, ...]:
    """Read the tensors of a safetensors file, in the order of their data.

    Args:
        weights: the file, positioned at its start.
        size: size of the file in bytes.

    Raises:
        BundleError: the header is missing or invalid, or its tensors overlap or don't cover the whole file.
    """
    try:
        (length,) = struct.unpack("<Q", weights.read(8))
        if not length <= min(size - 8, _MAX_HEADER_BYTES):
            raise ValueError(f"it would have {length} bytes")
        header = parse_json(weights.read(length))
        if not isinstance(header, dict):
            raise ValueError("it is not a JSON object")
        found = sorted(
            (_tensor(name, entry) for name, entry in header.items() if name != "__metadata__"), key=lambda pair: pair[0]
        )
        _check_order([span for span, _ in found], size - 8 - length)
    except (struct.error, ValueError) as error:
        raise BundleError(f"{WEIGHTS_NAME} has no readable header ({error})") from None
    return tuple(tensor for _, tensor in found)


def _tensor(name: str, entry: Any) -> tuple[tuple[int, int], ListedTensor]:
    """Return a tensor, and the byte range of its data."""
    fields = entry if isinstance(entry, dict) else {}
    code, shape, span = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if not (
        isinstance(code, str) and code in STORED_ELEMENTS and _are_extents(shape) and _are_extents(span) and len(span) == 2
    ):
        raise ValueError(f"the entry of {name!r:.60} does not describe a tensor")
    dtype, width = STORED_ELEMENTS[code]
    start, end = span
    if code == "U8":
        shape = [*shape[:-1], 2 * shape[-1]] if shape else [2]
    tensor = ListedTensor(name, dtype, tuple(shape), end - start)
    if tensor.bytes != tensor.elements * width:
        raise ValueError(f"{name!r:.60} has {tensor.bytes} bytes, which does not match its shape")
    return (start, end), tensor


def _are_extents(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(n) is int and 0 <= n <= _MAX_EXTENT for n in value)


def _check_order(spans: list[tuple[int, int]], size: int) -> None:
    position = 0
    for start, end in [*spans, (size, size)]:
        if start != position:
            raise ValueError(f"its tensors skip or share bytes at {min(start, position)}")
        position = end
