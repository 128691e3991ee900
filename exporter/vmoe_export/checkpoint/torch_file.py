"""Read torch `.pt` and `.pth` files without executing code from them."""

from __future__ import annotations

import argparse
import logging
import pickle
import struct
import sys
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vmoe_export.checkpoint.base import MAX_TREE_DEPTH, Array, Checkpoint, TensorInfo, naming
from vmoe_export.checkpoint.number_types import dtype_from_name
from vmoe_export.checkpoint.plain_file import PlainFile
from vmoe_export.errors import CheckpointError

_MAX_PICKLE_BYTES = 16 << 20
_BLOCK = 1 << 20


class TorchCheckpoint(Checkpoint):
    """A file written by torch.save.

    The file holds a flat or nested mapping of names to tensors, and is read with `weights_only=True`. For a zip file, torch
    reads only the names and shapes. zipfile reads the data, because torch does not check their CRC-32. Files in the layout
    used before torch 1.6 have no checksums, so torch reads these files completely.
    """

    def __init__(self, path: Path) -> None:
        self._archive: zipfile.ZipFile | None = None
        self._records: dict[int, zipfile.ZipInfo] = {}  # key: the offset of the record's data
        self._shared: tuple[int, Array] | None = None  # the record read last (header offset and data); tensors may share it
        self._file = PlainFile(path)
        try:
            with naming(path):
                loaded = self._load(path)
                if not isinstance(loaded, Mapping):
                    kind = "tensor" if isinstance(loaded, torch.Tensor) else type(loaded).__name__
                    raise CheckpointError(f"it holds a {kind}, not a mapping of names to tensors")
                self._tensors: dict[str, torch.Tensor] = {}
                for name, tensor in _flatten(loaded):
                    if self._tensors.setdefault(name, tensor) is not tensor:
                        raise CheckpointError(f"it holds '{name[:80]}' twice")
                stored = {name: self._info(name, tensor) for name, tensor in self._tensors.items()}
            super().__init__(path, "torch", [path], stored)
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _load(self, path: Path) -> Any:
        if bytes(self._file.read(0, min(2, self._file.size))) == b"PK":
            return self._load_zip(path)
        return _torch_load(path, self._file)

    def _load_zip(self, path: Path) -> Any:
        from torch._subclasses import FakeTensorMode

        try:
            self._archive = zipfile.ZipFile(self._file.stream)
        except Exception:  # given a damaged directory, zipfile may raise any exception
            raise CheckpointError("it is damaged or cut short: its directory is not readable") from None
        for entry in self._archive.infolist():
            _, _, name = entry.filename.partition("/")
            if name.startswith("code/"):
                raise CheckpointError("it is a TorchScript program; torch.save the state_dict() of torch.jit.load(FILE)")
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > self._file.size:
                raise CheckpointError(f"its record '{name[:80]}' is compressed, or larger than the file")
            if name.startswith("data/"):  # the record's CRC-32 is checked when its data are read
                offset = self._data_offset(entry)
                if self._records.setdefault(offset, entry) is not entry:
                    raise CheckpointError(f"it is damaged: its record '{name[:80]}' has the position of another one")
                continue
            if entry.file_size > _MAX_PICKLE_BYTES:
                raise CheckpointError(f"its record '{name[:80]}' is larger than {_MAX_PICKLE_BYTES >> 20} MiB")
            data = bytes(self._record_data(entry))
            if name == "byteorder" and data.decode("ascii", "replace") != sys.byteorder:
                raise CheckpointError(
                    f"it was written on a machine with another byte order; this one is {sys.byteorder} endian"
                )
        # For a damaged file, torch logs a traceback in addition to raising an exception. Suppress the traceback.
        logging.getLogger(FakeTensorMode.__module__).setLevel(logging.CRITICAL)
        # Fake tensors have no data, but their storages give the data's offset in the file.
        with FakeTensorMode():
            return _torch_load(path, self._file)

    def _data_offset(self, entry: zipfile.ZipInfo) -> int:
        """Return the offset of a record's data.

        A record starts with a header of 30 bytes, which ends with the lengths of the name and of the extra field. The name,
        the extra field and the data follow.
        """
        lengths = struct.unpack("<2H", bytes(self._file.read(entry.header_offset + 26, 4)))
        return entry.header_offset + 30 + int(sum(lengths))

    def _record_data(self, entry: zipfile.ZipInfo) -> Array:
        """Read the data of a record into a uint8 array, and check their CRC-32."""
        assert self._archive is not None
        data, position = np.empty(entry.file_size, np.uint8), 0
        try:
            with self._archive.open(entry) as stream:
                while block := stream.read(_BLOCK):
                    data[position : position + len(block)] = np.frombuffer(block, np.uint8)
                    position += len(block)
        except OSError:
            raise
        except Exception as error:  # given a damaged header, zipfile may raise any exception
            raise CheckpointError(f"its record '{entry.filename[:80]}' is damaged or cut short ({error})") from None
        if position < len(data):
            raise CheckpointError(f"its record '{entry.filename[:80]}' is cut short")
        return data

    def _info(self, name: str, tensor: torch.Tensor) -> TensorInfo:
        with naming(f"tensor {name}"):
            dtype = self._dtype(tensor)
        if tensor.layout != torch.strided or tensor.device.type == "meta":
            raise CheckpointError(f"tensor {name} is sparse or has no data")
        storage = tensor.untyped_storage().nbytes()
        if self._archive is not None and self._record(tensor) is None:
            raise CheckpointError(f"tensor {name} has no record of its size; save the file again with torch.save")
        last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
        # Also check the number of elements, because a tensor with a stride of 0 can have any shape with only a few bytes.
        if tensor.numel() and max(tensor.numel(), tensor.storage_offset() + last + 1) * dtype.itemsize > storage:
            raise CheckpointError(f"tensor {name} has less data than its shape {tuple(tensor.shape)} needs")
        return TensorInfo(tuple(tensor.shape), dtype)

    def _record(self, tensor: torch.Tensor) -> zipfile.ZipInfo | None:
        """Return the record that holds a tensor's storage, or None if no record has the storage's offset and size."""
        storage = tensor.untyped_storage()
        record = self._records.get(getattr(storage, "_checkpoint_offset", -1))
        return record if record is not None and record.file_size == storage.nbytes() else None

    def _read(self, stored_name: str) -> Array:
        tensor = self._tensors[stored_name]
        dtype, shape = self._dtype(tensor), tuple(tensor.shape)
        if not tensor.numel():
            return np.empty(shape, dtype)
        if record := self._record(tensor):
            if self._shared is None or self._shared[0] != record.header_offset:
                self._shared = None  # free the last record's memory before reading the next record
                self._shared = record.header_offset, self._record_data(record)
            values = torch.frombuffer(self._shared[1], dtype=tensor.dtype)
            values = values.as_strided(shape, tensor.stride(), tensor.storage_offset())
            values = values.conj() if tensor.is_conj() else values
            tensor = -values if tensor.is_neg() else values
        plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
        return np.array(plain.reshape(-1).view(torch.uint8).numpy()).view(dtype).reshape(shape)

    @staticmethod
    def _dtype(tensor: torch.Tensor) -> np.dtype[Any]:
        return dtype_from_name(str(tensor.dtype).removeprefix("torch."))


def _torch_load(path: Path, file: PlainFile) -> Any:
    file.stream.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with torch.serialization.safe_globals([argparse.Namespace]):  # training programs save options as a Namespace
                return torch.load(file.stream, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            raise CheckpointError(
                f"{path} is damaged, or holds more than tensors and would run code when unpickled; "
                "torch.save its state dict alone"
            ) from None
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror or 'not readable'}") from None
        except Exception:  # a damaged file may raise any exception; since torch 2.15, a sparse tensor may, too
            raise CheckpointError(f"{path} is not a readable torch file, or has sparse tensors") from None


def _flatten(tree: Mapping[Any, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    size = 0  # total length of the names; a small file may nest the same mapping many times

    def walk(tree: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
        nonlocal size
        if prefix.count("/") > MAX_TREE_DEPTH:
            raise CheckpointError("its tree of names is nested too deeply")
        for key, value in tree.items():
            name = f"{prefix}{key}"
            size += len(name) + 1
            if size > _MAX_PICKLE_BYTES:
                raise CheckpointError(f"its names take more than {_MAX_PICKLE_BYTES >> 20} MiB")
            if isinstance(value, Mapping):
                yield from walk(value, f"{name}/")
            elif isinstance(value, torch.Tensor):
                yield (name.replace(".", "/") if prefix else name), value

    return walk(tree, "")
