"""Reads a torch `.pt` or `.pth` file that holds the official parameter tree. Nothing in it is executed."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vmoe_export.checkpoint.base import Array, Checkpoint, TensorInfo
from vmoe_export.checkpoint.dtypes import dtype_from_name
from vmoe_export.checkpoint.tensor_tree import MAX_TREE_DEPTH
from vmoe_export.errors import CheckpointError


class TorchCheckpoint(Checkpoint):
    """A file of torch.save: a flat or nested mapping of names to tensors, read with `weights_only=True`."""

    def __init__(self, path: Path) -> None:
        try:
            loaded = _load(path)
        except pickle.UnpicklingError:
            raise CheckpointError(
                f"{path} is damaged, or holds more than tensors and would run code when unpickled; it is not read"
            ) from None
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror or 'not readable'}") from None
        except Exception:  # a damaged file makes torch fail in any way
            raise CheckpointError(f"{path} is not a readable torch file") from None
        if not isinstance(loaded, Mapping):
            raise CheckpointError(f"{path} holds a {type(loaded).__name__}, not a mapping of names to tensors")
        try:
            self._tensors: dict[str, torch.Tensor] = {}
            for name, tensor in _flatten(loaded, ""):
                if self._tensors.setdefault(name, tensor) is not tensor:
                    raise CheckpointError(f"it holds '{name[:80]}' twice")
            stored = {name: _info(name, tensor) for name, tensor in self._tensors.items()}
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
        super().__init__(path, "torch", [path], stored)

    def _read(self, stored_name: str) -> Array:
        tensor = self._tensors[stored_name].detach().resolve_conj().contiguous()
        dtype = dtype_from_name(str(tensor.dtype).removeprefix("torch."))
        flat = tensor.reshape(-1).view(torch.uint8) if tensor.numel() else torch.empty(0, dtype=torch.uint8)
        array: Array = np.array(flat.numpy()).view(dtype).reshape(tuple(tensor.shape))
        return array


def _load(path: Path) -> Any:
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Only the zip layout can be mapped; the layout before torch 1.6 is read whole.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)


def _info(name: str, tensor: torch.Tensor) -> TensorInfo:
    try:
        dtype = dtype_from_name(str(tensor.dtype).removeprefix("torch."))
    except CheckpointError as error:
        raise CheckpointError(f"tensor {name}: {error}") from None
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise CheckpointError(f"tensor {name} is sparse or has no data")
    # A stride of 0 lets a few bytes pass for any shape.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(f"tensor {name} has less data than its shape {tuple(tensor.shape)} needs")
    return TensorInfo(tuple(tensor.shape), dtype)


def _flatten(tree: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    if prefix.count("/") > MAX_TREE_DEPTH:
        raise CheckpointError("its tree of names is nested too deeply")
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}/")
        elif isinstance(value, torch.Tensor):
            name = f"{prefix}{key}"
            yield (name.replace(".", "/") if prefix else name), value
