"""Reads a model that lies in several safetensors files, of which an index says where each tensor is."""

from __future__ import annotations

import json
from pathlib import Path

from vmoe_export.checkpoint.base import Array, Checkpoint
from vmoe_export.checkpoint.safetensors_file import SafetensorsCheckpoint
from vmoe_export.errors import CheckpointError
from vmoe_export.small_file import read_small


class ShardedCheckpoint(Checkpoint):
    """The files that `model.safetensors.index.json` names, all of them beside it."""

    def __init__(self, path: Path) -> None:
        self._shards: dict[str, SafetensorsCheckpoint] = {}
        try:
            self._files = weight_map(path)
            for name in sorted(set(self._files.values())):
                self._shards[name] = SafetensorsCheckpoint(path.parent / name)
            missing = next((name for name, file in self._files.items() if name not in self._shards[file].info), None)
            if missing is not None:
                raise CheckpointError(f"{path} says that {self._files[missing]} holds a tensor {missing}, and it doesn't")
            stored = {name: self._shards[file].info[name] for name, file in self._files.items()}
            super().__init__(path, "safetensors", [path, *(shard.path for shard in self._shards.values())], stored)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the files."""
        for shard in self._shards.values():
            shard.close()

    def _read(self, stored_name: str) -> Array:
        return self._shards[self._files[stored_name]][stored_name]


def weight_map(path: Path) -> dict[str, str]:
    """The file of each tensor, by an index. Raises CheckpointError: it is no index, or names files elsewhere."""
    try:
        found = json.loads(read_small(path))["weight_map"]
        files = {str(name): str(file) for name, file in found.items()}
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{path} is no index of safetensors files: it has no 'weight_map' of names to files") from None
    if outside := next(
        (file for file in files.values() if Path(file).name != file or not file.endswith(".safetensors")), None
    ):
        raise CheckpointError(f"{path} names {outside!r:.80}, which is no safetensors file beside it")
    return files
