"""The weights of the peers' graphs: one file that all graphs of a model point into."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

Array = np.ndarray[Any, np.dtype[Any]]

_ALIGNMENT = 4096  # a page, so that every tensor can be mapped


class PeerWeights:
    """A growing file of float32 tensors. Those of an earlier run are used again.

    Args:
        path: the file; its index lies beside it as `<path>.json`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._index_path = path.with_name(f"{path.name}.json")
        whole = path.exists() and self._index_path.exists()
        self._index: dict[str, dict[str, Any]] = json.loads(self._index_path.read_text()) if whole else {}

    def add(self, name: str, make: Callable[[], Array]) -> onnx.TensorProto:
        """An initializer that points to the tensor `name`, which `make` gives where the file doesn't have it yet."""
        if name not in self._index:
            tensor = np.ascontiguousarray(make(), np.float32)
            with self._path.open("ab") as file:
                file.write(bytes(-file.tell() % _ALIGNMENT))
                offset = file.tell()
                file.write(tensor.data)
            self._index[name] = {"offset": offset, "length": tensor.nbytes, "dims": tensor.shape}
        place = self._index[name]
        proto = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=place["dims"], data_location=TensorProto.EXTERNAL)
        for key, value in (("location", self._path.name), ("offset", place["offset"]), ("length", place["length"])):
            proto.external_data.add(key=key, value=str(value))
        return proto

    def save(self) -> None:
        """Makes the index last, once the graphs that use the tensors are written."""
        self._index_path.write_text(json.dumps(self._index))
