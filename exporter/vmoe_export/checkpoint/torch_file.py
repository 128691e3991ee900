"""Reads a torch `.pt` or `.pth` file that holds the official parameter tree. Nothing in it is executed."""

from __future__ import annotations

import pickle
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vmoe_export.checkpoint.base import Array, Checkpoint, TensorInfo
from vmoe_export.checkpoint.dtypes import dtype_from_name
from vmoe_export.checkpoint.plain_file import PlainFile
from vmoe_export.checkpoint.tensor_tree import MAX_TREE_DEPTH
from vmoe_export.checkpoint.torch_records import Record, check, read_checked, read_records
from vmoe_export.errors import CheckpointError

_MAX_PICKLE_BYTES = 16 << 20


class TorchCheckpoint(Checkpoint):
    """A file of torch.save: a flat or nested mapping of names to tensors, read with `weights_only=True`.

    Of the zip layout torch reads the names and shapes alone; the data is read here, against its CRC-32. The layout before
    torch 1.6 has no checksums and is read whole.
    """

    def __init__(self, path: Path) -> None:
        self._records: dict[int, Record] | None = None  # by offset
        self._checked: set[Record] = set()
        self._file = PlainFile(path)
        try:
            loaded = self._load(path)
            if not isinstance(loaded, Mapping):
                kind = "tensor" if isinstance(loaded, torch.Tensor) else type(loaded).__name__
                raise CheckpointError(f"it holds a {kind}, not a mapping of names to tensors")
            self._tensors: dict[str, torch.Tensor] = {}
            for name, tensor in _flatten(loaded, ""):
                if self._tensors.setdefault(name, tensor) is not tensor:
                    raise CheckpointError(f"it holds '{name[:80]}' twice")
            stored = {name: self._info(name, tensor) for name, tensor in self._tensors.items()}
            super().__init__(path, "torch", [path], stored)
        except CheckpointError as error:
            self._file.close()
            sentence = str(error)
            raise CheckpointError(sentence if sentence.startswith(str(path)) else f"{path}: {sentence}") from None
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _load(self, path: Path) -> Any:
        if bytes(self._file.read(0, min(2, self._file.size))) == b"PK":
            return self._load_zip(path)
        return _torch_load(path, self._file)

    def _load_zip(self, path: Path) -> Any:
        from torch._subclasses import FakeTensorMode

        records = read_records(self._file)
        for name, record in records.items():
            if name.startswith("data/"):  # checked when it is read
                continue
            if record.size > _MAX_PICKLE_BYTES:
                raise CheckpointError(f"its record '{name[:80]}' is larger than {_MAX_PICKLE_BYTES >> 20} MiB")
            try:
                data = bytes(read_checked(self._file, record))
            except CheckpointError as error:
                raise CheckpointError(f"its record '{name[:80]}': {error}") from None
            if name == "byteorder" and data.decode("ascii", "replace") != sys.byteorder:
                raise CheckpointError(
                    f"it was written on a machine of other byte order than this one ({sys.byteorder} endian)"
                )
        self._records = {record.offset: record for name, record in records.items() if name.startswith("data/")}
        # Tensors without data, whose storages say where in the file theirs is.
        with FakeTensorMode():
            return _torch_load(path, self._file)

    def _info(self, name: str, tensor: torch.Tensor) -> TensorInfo:
        try:
            dtype = dtype_from_name(str(tensor.dtype).removeprefix("torch."))
        except CheckpointError as error:
            raise CheckpointError(f"tensor {name}: {error}") from None
        if tensor.layout != torch.strided or tensor.device.type == "meta":
            raise CheckpointError(f"tensor {name} is sparse or has no data")
        storage = tensor.untyped_storage().nbytes()
        if self._records is not None and self._record(tensor) is None:
            raise CheckpointError(f"tensor {name} has no record of its size; save the file again with torch.save")
        last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
        # A stride of 0 lets a few bytes pass for any shape.
        if tensor.numel() and max(tensor.numel(), tensor.storage_offset() + last + 1) * dtype.itemsize > storage:
            raise CheckpointError(f"tensor {name} has less data than its shape {tuple(tensor.shape)} needs")
        return TensorInfo(tuple(tensor.shape), dtype)

    def _record(self, tensor: torch.Tensor) -> Record | None:
        """The record of a tensor's storage; None where there is none of that size."""
        storage = tensor.untyped_storage()
        record = (self._records or {}).get(getattr(storage, "_checkpoint_offset", -1))
        return record if record is not None and record.size == storage.nbytes() else None

    def _read(self, stored_name: str) -> Array:
        tensor = self._tensors[stored_name]
        dtype = dtype_from_name(str(tensor.dtype).removeprefix("torch."))
        if self._records is None:
            plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
            flat = plain.reshape(-1).view(torch.uint8) if plain.numel() else torch.empty(0, dtype=torch.uint8)
            return np.array(flat.numpy()).view(dtype).reshape(tuple(tensor.shape))
        record = self._record(tensor)
        if record is None or not tensor.numel():
            return np.empty(tuple(tensor.shape), dtype)
        length = tensor.numel() * dtype.itemsize
        if tensor.is_contiguous():
            start = int(tensor.storage_offset()) * dtype.itemsize
            whole = length == record.size
        else:
            start, length, whole = 0, record.size, True
        if whole:
            data = read_checked(self._file, record)
        else:
            # One of many tensors in this storage, perhaps: its record is checked once, and then only the part is read.
            if record not in self._checked:
                check(self._file, record)
                self._checked.add(record)
            data = self._file.read(record.offset + start, length)
        values = data.view(dtype)
        if not tensor.is_contiguous():
            strides = [step * dtype.itemsize for step in tensor.stride()]
            first = values[tensor.storage_offset() :]
            values = np.ascontiguousarray(np.lib.stride_tricks.as_strided(first, tuple(tensor.shape), strides))
        array: Array = values.reshape(tuple(tensor.shape))
        array = np.conjugate(array) if tensor.is_conj() else array
        return np.negative(array) if tensor.is_neg() else array


def _torch_load(path: Path, file: PlainFile) -> Any:
    file.stream.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return torch.load(file.stream, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            raise CheckpointError(
                f"{path} is damaged, or holds more than tensors and would run code when unpickled; it is not read"
            ) from None
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror or 'not readable'}") from None
        except Exception:  # a damaged file makes torch fail in any way
            raise CheckpointError(f"{path} is not a readable torch file") from None


def _flatten(tree: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    if prefix.count("/") > MAX_TREE_DEPTH:
        raise CheckpointError("its tree of names is nested too deeply")
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}/")
        elif isinstance(value, torch.Tensor):
            name = f"{prefix}{key}"
            yield (name.replace(".", "/") if prefix else name), value
