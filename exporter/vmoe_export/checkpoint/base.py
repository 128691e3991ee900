"""The interface of every checkpoint reader. Tensors of a parameter tree are read by name, one at a time."""

from __future__ import annotations

import hashlib
import os
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from vmoe_export.errors import CheckpointError, ConfigError

Array = np.ndarray[Any, np.dtype[Any]]

WRAPPERS = {"model", "module", "_orig_mod", "state_dict", "model_state_dict"}
"""Prefixes that training programs add to every parameter name."""
_ROOT_WORDS = WRAPPERS | {"params", "target"}
_LANDMARK = "embedding/kernel"

MAX_TREE_DEPTH = 64  # far more than an official tree (7 levels) or a train state needs


@dataclass(frozen=True)
class TensorInfo:
    """The shape and dtype of a stored tensor, which can be read without the tensor's data."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Checkpoint(Mapping[str, Array]):
    """A read-only mapping of tensor names to arrays.

    Each access reads one tensor from disk into new memory, and nothing is cached. Close the checkpoint, or use it in a
    `with` statement.

    Attributes:
        path: the opened path.
        source: the name that the bundle records as its `source`. It is the file name, or the URL from which the file was
            copied.
        format: the file format: "vmoe", "orbax", "safetensors", "torch" or "bundle".
        files: all files that `sha256` covers.
        notes: notes for the user on how the checkpoint was located and read.
        config_file: path of an official config next to the checkpoint, or None if there is none.
        info: shape and dtype of each tensor.
        family_title: title of the model family, if the checkpoint comes from another library. It is None for official
            models. The title is kept when the tensors are translated to official names.
    """

    notes: tuple[str, ...] = ()
    config_file: Path | None = None
    family_title: str | None = None

    def __init__(self, path: Path, format: str, files: list[Path], stored: Mapping[str, TensorInfo]) -> None:
        self.path = path
        self.source = os.fsencode(path.name).decode(errors="replace")
        self.format = format
        self.files = files
        self._stored_names = {name: name for name in sorted(stored)}
        self.info: Mapping[str, TensorInfo] = {name: stored[name] for name in self._stored_names}

    def use_official_names(self) -> None:
        """Rename the parameters to their official names, and drop all other tensors. A note lists the dropped tensors.

        Raises:
            CheckpointError: there is no official parameter tree, or more than one.
        """
        with naming(self.path):
            self._stored_names = parameter_names(self.info)
        if beside := {re.split("[./]", name)[0] for name in self.info.keys() - self._stored_names.values()}:
            self.notes = (*self.notes, f"ignored (not part of the model): {', '.join(sorted(beside))[:200]}")
        self.info = {name: self.info[self._stored_names[name]] for name in sorted(self._stored_names)}

    def __getitem__(self, name: str) -> Array:
        info = self.info[name]
        try:
            with naming(f"{self.path}: tensor {name}"):
                array = self._read(self._stored_names[name])
        except OSError as error:
            raise CheckpointError(f"{self.path}: tensor {name} can't be read: {error.strerror or error}") from None
        if array.shape != info.shape or array.dtype != info.dtype:
            raise CheckpointError(f"{self.path}: tensor {name}: its data do not match the header")
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self.info)

    def __len__(self) -> int:
        return len(self.info)

    def __contains__(self, name: object) -> bool:
        return name in self.info

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def sha256(self) -> str:
        """Return the SHA-256 (hex) over the bytes of all files, in order.

        Raises:
            CheckpointError: a file is no longer readable.
        """
        digest = hashlib.sha256()
        for path in self.files:
            try:
                with path.open("rb") as file:
                    while block := file.read(1 << 20):
                        digest.update(block)
            except OSError as error:
                raise CheckpointError(f"{path} can't be read: {error.strerror}") from None
        return digest.hexdigest()

    def close(self) -> None:
        """Close the files."""

    @abstractmethod
    def _read(self, stored_name: str) -> Array:
        """Read one tensor by its stored name, into new memory."""


@contextmanager
def naming(what: object) -> Iterator[None]:
    """Prefix `what` to the message of a CheckpointError or ConfigError that is raised in the block.

    A message that already starts with `what` is not changed.
    """
    try:
        yield
    except (CheckpointError, ConfigError) as error:
        message = str(error)
        raise type(error)(message if message.startswith(str(what)) else f"{what}: {message}") from None


def parameter_names(stored_names: Iterable[str]) -> dict[str, str]:
    """Map official parameter names to the stored names.

    The parameters may be at the root of the tree, or below `params`, `target` or a wrapper such as `model`. Wrappers may be
    nested, as in a train state. The parts of a name may be joined by `/` or by `.`.

    Raises:
        CheckpointError: there is no `embedding/kernel`, so the tree is not a V-MoE or ViT parameter tree.
        CheckpointError: a name occurs twice, or there are two parameter trees.

    Examples:
        >>> parameter_names(["params/embedding/kernel", "step"])
        {'embedding/kernel': 'params/embedding/kernel'}
    """
    by_path: dict[str, str] = {}
    for name in stored_names:
        path = name if "/" in name else name.replace(".", "/")
        if by_path.setdefault(path, name) != name:
            raise CheckpointError(f"it holds '{path[:80]}' twice, joined by '/' and by '.'")
    landmarks = [path for path in by_path if f"/{path}".endswith(f"/{_LANDMARK}")]
    prefixes = [path[: -len(_LANDMARK)] for path in landmarks]
    prefixes = [prefix for prefix in prefixes if set(prefix.split("/")) <= _ROOT_WORDS | {""}]
    if not prefixes:
        if landmarks:
            found = landmarks[0][:80]
            raise CheckpointError(
                f"it holds no '{_LANDMARK}' at its root, but '{found}'; save the tree below that prefix alone"
            )
        some = ", ".join(name[:80] for name in sorted(by_path.values())[:3]) or "nothing"
        raise CheckpointError(
            f"it holds no '{_LANDMARK}', so it is neither a V-MoE parameter tree nor a model of vmoe export --families "
            f"(it holds {some})"
        )
    root, *others = prefixes
    if others:
        raise CheckpointError(f"it holds two models: '{root}{_LANDMARK}' and '{others[0]}{_LANDMARK}'; keep one of them")
    return {path[len(root) :]: name for path, name in by_path.items() if path.startswith(root)}
