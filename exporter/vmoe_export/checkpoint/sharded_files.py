"""Read a model that is split into several files. An index specifies which file holds each tensor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from vmoe_export.checkpoint.base import Array, Checkpoint
from vmoe_export.errors import CheckpointError
from vmoe_export.small_file import read_small


class ShardedCheckpoint(Checkpoint):
    """The files that `model.safetensors.index.json` or `pytorch_model.bin.index.json` lists.

    All files are in the index's folder.
    """

    def __init__(self, path: Path, open_file: Callable[[Path], Checkpoint]) -> None:
        self._shards: dict[str, Checkpoint] = {}
        try:
            self._files = weight_map(path)
            for name in sorted(set(self._files.values())):
                self._shards[name] = open_file(path.parent / name)
            missing = next((name for name, file in self._files.items() if name not in self._shards[file].info), None)
            if missing is not None:
                raise CheckpointError(f"{path} says that {self._files[missing]} holds tensor {missing}, but it doesn't")
            stored = {name: self._shards[file].info[name] for name, file in self._files.items()}
            kind = next((shard.format for shard in self._shards.values()), "safetensors")
            super().__init__(path, kind, [path, *(shard.path for shard in self._shards.values())], stored)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the files."""
        for shard in self._shards.values():
            shard.close()

    def _read(self, stored_name: str) -> Array:
        return self._shards[self._files[stored_name]][stored_name]


def weight_map(path: Path) -> dict[str, str]:
    """Read an index, and return a mapping of tensor names to file names.

    Raises:
        CheckpointError: the file is not an index, or lists files in another folder.
    """
    kind = Path(path.name.removesuffix(".index.json")).suffix
    try:
        found = json.loads(read_small(path))["weight_map"]
        files = {str(name): str(file) for name, file in found.items()}
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{path} is not an index of {kind} files: it has no 'weight_map' of names to files") from None
    if outside := next((file for file in files.values() if Path(file).name != file or not file.endswith(kind)), None):
        raise CheckpointError(f"{path} names {outside!r:.80}, which is not a {kind} file in its folder")
    return files
