"""Read `.safetensors` files."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

from safetensors import SafetensorError, safe_open

from vmoe_export.checkpoint.base import Array, Checkpoint, TensorInfo, naming
from vmoe_export.checkpoint.number_types import dtype_from_name
from vmoe_export.checkpoint.plain_file import PlainFile
from vmoe_export.errors import CheckpointError

DTYPES = {
    "BOOL": "bool", "I8": "int8", "U8": "uint8", "I16": "int16", "U16": "uint16", "I32": "int32", "U32": "uint32",
    "I64": "int64", "U64": "uint64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "C64": "complex64",
}  # fmt: skip


class SafetensorsCheckpoint(Checkpoint):
    """One safetensors file.

    The safetensors library validates the file. The data are read at the offsets in the file's header.
    """

    def __init__(self, path: Path) -> None:
        self._offsets: dict[str, tuple[int, int]] = {}
        self._info: dict[str, TensorInfo] = {}
        try:
            with naming(path):
                self._file = PlainFile(path)
                with safe_open(path, framework="numpy"):
                    pass
                (size,) = struct.unpack("<Q", bytes(self._file.read(0, 8)))
                self._data_start = 8 + size
                self._read_header(bytes(self._file.read(8, size)))
        except SafetensorError as error:
            raise CheckpointError(f"{path} is cut short, damaged or not a safetensors file ({error})") from None
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror or error}") from None
        # The library has just validated the file, so any of these errors means that the file was changed after the
        # validation.
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
            raise CheckpointError(f"{path} was changed while it was read") from None
        super().__init__(path, "safetensors", [path], self._info)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read_header(self, text: bytes) -> None:
        for name, entry in json.loads(text).items():
            if name == "__metadata__":
                continue
            with naming(f"tensor {name}"):
                dtype = dtype_from_name(DTYPES.get(entry["dtype"], entry["dtype"]))
            start, end = entry["data_offsets"]
            info = TensorInfo(tuple(entry["shape"]), dtype)
            if start < 0 or end - start != math.prod(info.shape) * dtype.itemsize:
                raise ValueError
            self._offsets[name], self._info[name] = (start, end), info

    def _read(self, stored_name: str) -> Array:
        start, end = self._offsets[stored_name]
        info = self._info[stored_name]
        return self._file.read(self._data_start + start, end - start).view(info.dtype).reshape(info.shape)
