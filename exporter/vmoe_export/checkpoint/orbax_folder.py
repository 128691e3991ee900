"""Read the parameters of an Orbax checkpoint, the current official trainer's format, using tensorstore.

Source of the format: orbax-checkpoint 0.2 to 0.12. A file `_METADATA` (old versions: `checkpoint`) lists the leaves of a
tree. Each array is stored as zarr version 2 or 3, either in its own folder or in an OCDBT database that all arrays share.
Values have no checksum.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import msgpack
import numpy as np
import tensorstore

from vmoe_export.checkpoint.base import Array, Checkpoint, TensorInfo, naming, parameter_names
from vmoe_export.checkpoint.number_types import dtype_from_name
from vmoe_export.checkpoint.plain_file import PlainFile
from vmoe_export.errors import CheckpointError

_CONFIG_NAMES = ("config.json", "config.yaml")
_PLACEHOLDER = "PLACEHOLDER://"
_MAX_NAMES_BYTES = 64 << 20
_MAX_TENSOR_BYTES = 1 << 36
_MAX_LEAVES = 100_000
_ALWAYS_BYTES, _MOST_UNPACKED = 64 << 20, 100
"""The parameters may unpack to `_ALWAYS_BYTES` or `_MOST_UNPACKED` times the size of the folder, whichever is larger.
Trained weights hardly compress, so a real checkpoint is far below the limit."""
_CACHED_BYTES = 16 << 20  # for database nodes only; each value is read once, so caching values is pointless


class OrbaxCheckpoint(Checkpoint):
    """An Orbax checkpoint of a train state, or of parameters saved alone. Each array is read on access."""

    def __init__(self, folder: Path, notes: Sequence[str] = ()) -> None:
        """Locate the parameters and read their shapes. Arrays that are not parameters are not opened.

        Args:
            folder: an item folder, as returned by `orbax_steps.find_item`.
            notes: notes for the user on how the folder was chosen.
        """
        with naming(folder):
            folder_bytes = _check_plain(folder)
            file, self._stores, self._driver = _read_names(folder)
            self._files = {"driver": "file", "path": f"{folder.resolve()}/"}
            self._is_database = (folder / "manifest.ocdbt").is_file()
            self._context = tensorstore.Context(
                {"cache_pool": {"total_bytes_limit": 0}, "cache_pool#nodes": {"total_bytes_limit": _CACHED_BYTES}}
            )
            stored = {name: self._info(name) for name in parameter_names(self._stores).values()}
            stated = sum(math.prod(info.shape) * info.dtype.itemsize for info in stored.values())
            if stated > max(_ALWAYS_BYTES, _MOST_UNPACKED * folder_bytes):
                raise CheckpointError(
                    f"its arrays have {stated:,} bytes by their shapes, but its files have only {folder_bytes:,}"
                )
        super().__init__(folder, "orbax", [file], stored)
        folder = folder.resolve()
        self.source = os.fsencode("/".join(folder.parts[-2:])).decode(errors="replace")
        self.notes = tuple(notes)
        above = folder.parents[: 3 if folder.parent.name[-1:].isdigit() else 1]  # step, ckpt, WORKDIR
        beside = [place / name for place in (folder, *above) for name in _CONFIG_NAMES]
        self.config_file = next((path for path in beside if path.is_file()), None)

    def sha256(self) -> str:
        """Return the SHA-256 (hex) of the parameters' names, dtypes, shapes and values.

        The files themselves are not hashed, because they also contain the optimizer state.
        """
        digest = hashlib.sha256()
        for name, array in self.items():
            digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()

    def _info(self, name: str) -> TensorInfo:
        with naming(f"tensor {name}"):
            store = self._open(name)
            dtype = dtype_from_name(store.dtype.name)
        # Check the sizes, because tensorstore allocates memory for a chunk and for the array before it reads any data. An
        # excessive size would get the process killed.
        chunk = store.chunk_layout.read_chunk.shape or store.shape
        if any(map(operator.gt, chunk, store.shape)) or math.prod(store.shape) * dtype.itemsize > _MAX_TENSOR_BYTES:
            sizes = f"shape {list(store.shape)} in chunks of {list(chunk)}"
            raise CheckpointError(f"tensor {name} has {sizes}, which no parameter has")
        return TensorInfo(tuple(store.shape), dtype)

    def _open(self, name: str) -> Any:
        path = f"{self._stores[name]}/"
        where: dict[str, Any] = {"driver": "file", "path": self._files["path"] + path}
        if self._is_database:
            where = {"driver": "ocdbt", "base": self._files, "path": path, "cache_pool": "cache_pool#nodes"}
        spec = {"driver": self._driver, "kvstore": where, "fill_missing_data_reads": False}
        try:
            return tensorstore.open(spec, open=True, read=True, context=self._context).result()
        except ValueError as error:
            raise CheckpointError(_reason(error)) from None

    def _read(self, stored_name: str) -> Array:
        store = self._open(stored_name)
        array = np.empty(store.shape, store.dtype.numpy_dtype)
        try:
            tensorstore.array(array).write(store).result()
        except ValueError as error:
            raise CheckpointError(_reason(error)) from None
        return array


def _check_plain(folder: Path) -> int:
    """Return the total size in bytes of the files below a folder.

    Raises:
        CheckpointError: an entry is neither a regular file nor a folder. Such entries are refused because a link may lead
            out of the folder, and reading a pipe may block.
    """
    total = 0
    for path in folder.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise CheckpointError(f"{path.relative_to(folder)} is neither a plain file nor a folder")
        total += path.lstat().st_size
    return total


def _read_names(folder: Path) -> tuple[Path, dict[str, str], Literal["zarr", "zarr3"]]:
    """Read the names of the arrays.

    Returns:
        Three values:

        - the file that lists the leaves,
        - a mapping of each leaf's path (joined by "/") to the name of its array in the store,
        - the tensorstore driver for the arrays.
    """
    path = next((folder / name for name in ("_METADATA", "checkpoint") if (folder / name).is_file()), None)
    if path is None:
        raise CheckpointError("it has neither _METADATA nor checkpoint, which name its arrays")
    with closing(PlainFile(path)) as file:
        if file.size > _MAX_NAMES_BYTES:
            raise CheckpointError(f"{path.name} is {file.size:,} bytes long, too long for a list of names")
        text = bytes(file.read(0, file.size))
    try:
        if path.name == "checkpoint":
            leaves, is_third = dict(_placeholders(msgpack.unpackb(text, strict_map_key=False), ())), False
        else:
            metadata = json.loads(text)
            leaves, is_third = {}, metadata.get("use_zarr3") is True
            for leaf in metadata["tree_metadata"].values():
                if leaf["value_metadata"].get("skip_deserialize") is not True:
                    key = tuple(str(part["key"]) for part in leaf["key_metadata"])
                    leaves[key] = ".".join(key)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, msgpack.UnpackException):
        raise CheckpointError(f"{path.name} is damaged: it is not a tree of names") from None
    if len(leaves) > _MAX_LEAVES:
        raise CheckpointError(f"{path.name} names {len(leaves):,} arrays; at most {_MAX_LEAVES:,} are read")
    for leaf, store in leaves.items():
        if "/" in "".join((*leaf, store)) or "\0" in store or store in ("", ".", ".."):
            raise CheckpointError(f"{path.name} has the name {'/'.join(leaf)[:80]!r}, which can't be a file's")
    return path, {"/".join(leaf): store for leaf, store in leaves.items()}, "zarr3" if is_third else "zarr"


def _placeholders(tree: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the path of each leaf whose array is stored outside the tree, and the array's name in the store."""
    if isinstance(tree, dict):
        for key, child in tree.items():
            yield from _placeholders(child, (*path, str(key)))
    elif isinstance(tree, str) and tree.startswith(_PLACEHOLDER):
        yield path, tree.removeprefix(_PLACEHOLDER)


def _reason(error: ValueError) -> str:
    """Return a short reason for a tensorstore error.

    The full message of the error also contains the whole request and local paths.
    """
    text = str(error)
    if "is missing" in text:
        return "a chunk of it is missing"
    if "does not exist" in text or "not found" in text:
        return "its array is missing"
    return f"it is damaged ({text.partition(':')[0].lower().replace('_', ' ')})"
