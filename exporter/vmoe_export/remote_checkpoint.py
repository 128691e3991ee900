"""Open checkpoints at a URL. The files that the reader needs are first copied to a private folder."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vmoe_export.checkpoint import MODEL_FILES, MODEL_SETTINGS, ONE_FILE_SUFFIXES, SHARDS, Checkpoint
from vmoe_export.checkpoint.official import open_index
from vmoe_export.checkpoint.sharded_files import weight_map
from vmoe_export.errors import CheckpointError
from vmoe_export.opening import open_checkpoint
from vmoe_remote.remote_files import RemoteFiles
from vmoe_runtime.addresses import is_address
from vmoe_runtime.errors import VmoeError

_MODEL_FILE = re.compile(rf"/({'|'.join(map(re.escape, MODEL_FILES))})(?=[?#]|$)")
_STEP = re.compile(r"(.*_)?\d+")
_INDEX = re.compile(r"\.index(?=[?#]|$)")
_ORBAX = {"_CHECKPOINT_METADATA", "_METADATA", "checkpoint", "state", "default"}
_FINISHED = "commit_success.txt"


@contextmanager
def checkpoint_at(
    source: str | os.PathLike[str], tell: Callable[[int, int], object] = lambda done, total: None
) -> Iterator[Checkpoint]:
    """Open a checkpoint at a path or a URL. A copy made from a URL is deleted when the `with` block ends.

    Args:
        source: a path for `open_checkpoint`, or a URL, such as gs://bucket/b16.
        tell: called during the copy with the number of bytes copied so far and the total number of bytes.

    Raises:
        RemoteError: nothing is at the URL, or the files there can't be copied.
        VmoeError: any error of `open_checkpoint`, or any VmoeError raised in the `with` block. In its message, the URL
            replaces the path of the copy.
    """
    if not isinstance(source, str) or not is_address(source):
        with open_checkpoint(source) as checkpoint:
            yield checkpoint
        return
    # The config and other settings of a Hugging Face model are in the same folder as its tensors.
    named = _MODEL_FILE.search(source)
    with RemoteFiles((_MODEL_FILE if named else _INDEX).sub("", source), tell) as files:
        try:
            if named:
                _copy_model(files, named[1], [name for name in MODEL_SETTINGS if files.size(f"/{name}") is not None])
            else:
                _copy(files)
            with open_checkpoint(files.path) as checkpoint:
                checkpoint.source = str(checkpoint.path).replace(str(files.path), files.address)
                yield checkpoint
        except VmoeError as error:
            error.args = (str(error).replace(str(files.path), files.address),)
            raise


def _copy(files: RemoteFiles) -> None:
    """Copy the files that `open_checkpoint` would read."""
    if files.path.suffix in ONE_FILE_SUFFIXES:
        files.copy([""])
    elif files.size(".index") is not None:
        _copy_one(files, ".index")
    elif not files.copy_bundle():
        names = files.names()
        found = [name for name in names if Path(name).suffix in {".index", *ONE_FILE_SUFFIXES}]
        steps = [name for name in names if _STEP.fullmatch(name)]
        if (usual := next((name for name in MODEL_FILES if name in names), None)) is not None:
            _copy_model(files, usual, [name for name in MODEL_SETTINGS if name in names])
        elif len(found) == 1:
            _copy_one(files, f"/{found[0]}")
            files.copy(f"/{name}" for name in MODEL_SETTINGS if name in names)
        elif _ORBAX & set(names):
            files.copy_below("")
        elif steps:
            # The folder has one subfolder for each saved training step. Copy the newest finished step. A finished step has a
            # marker file, but some file systems may lack it. If no step has the marker, copy the newest step.
            newest = [f"/{name}" for name in sorted(steps, key=lambda name: int(name.rpartition("_")[2]), reverse=True)]
            files.copy_below(next((step for step in newest if files.size(f"{step}/{_FINISHED}") is not None), newest[0]))
        else:
            held = f"it holds {', '.join(names)[:200]}" if names else f"neither it nor {files.address}.index can be read"
            raise CheckpointError(f"{files.address} is not a checkpoint: {held}")


def _copy_model(files: RemoteFiles, model: str, settings: list[str]) -> None:
    files.copy(f"/{name}" for name in (model, *settings))
    if model.endswith(SHARDS):
        files.copy(f"/{name}" for name in sorted(set(weight_map(files.path / model).values())))


def _copy_one(files: RemoteFiles, suffix: str) -> None:
    files.copy([suffix])
    prefix = suffix.removesuffix(".index")
    if prefix != suffix:
        files.copy(prefix + name for name in open_index(Path(f"{files.path}{prefix}"))[1].values())
