"""Opens a bundle folder, and checks that its files have not changed since the export."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from vmoe_runtime.bundle.external_data import external_data
from vmoe_runtime.bundle.manifest import (
    CANONICAL_GRAPH,
    INLINED_GRAPH,
    MANIFEST_NAME,
    MERGING_GRAPH,
    WEIGHTS_NAME,
    Manifest,
)
from vmoe_runtime.bundle.manifest_fields import MAX_GRAPH_BYTES, MAX_MANIFEST_BYTES
from vmoe_runtime.bundle.manifest_reader import parse_manifest
from vmoe_runtime.bundle.watched_folder import WatchedFolder
from vmoe_runtime.errors import BundleError, ChangedError, VmoeError

_ATTEMPTS = 3

Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class BundleGraph:
    """A graph whose bytes were checked.

    Attributes:
        path: path of the file, for messages.
        data: the checked bytes of the file.
        folder: the folder in which a runtime finds the weights.
        manifest: the bundle's manifest, which the graph must match; None for a graph outside a bundle.
    """

    path: Path
    data: bytes
    folder: str
    manifest: Manifest | None = None


@dataclass(frozen=True)
class Bundle:
    """A checked bundle: its folder, and its manifest.

    Load a graph inside a `with` block of the bundle. If the bundle was changed after it was opened, ChangedError is raised
    at the end of the block.
    """

    path: Path
    manifest: Manifest
    _folder: WatchedFolder
    _verify: bool
    _graphs: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, verify: bool = True) -> Bundle:
        """Read the manifest, and check every file against it. The SHA-256 of the weights is not checked yet.

        The weights are by far the largest file. `verify_weights` checks their SHA-256, and may run while a backend loads the
        graphs. Load the graphs in a `with` block of the bundle, or call `check_unchanged` after loading.

        Args:
            path: the `NAME.vmoe` folder.
            verify: whether to compare SHA-256s. If False, only names, sizes and external-data references are checked.

        Raises:
            BundleError: the folder is not a bundle, or a file is missing, changed, or refers to a file outside the bundle.
        """
        return while_unchanged(lambda: cls.open_once(path, verify=verify))

    @classmethod
    def open_once(cls, path: str | os.PathLike[str], *, verify: bool = True) -> Bundle:
        """Open a bundle as `open` does. But if the bundle is replaced while it is opened, don't try again.

        Raises:
            ChangedError: a file was changed while it was checked.
            BundleError: as for `open`.
        """
        path = Path(path)
        try:
            folder = WatchedFolder(path)
        except NotADirectoryError:
            raise BundleError(f"{path} is not a bundle: it is a file, and a bundle is a folder{_of_a_model(path)}") from None
        except (FileNotFoundError, ValueError):
            # A Path that was made from a URL has only one of the two slashes after the colon.
            hint = "; an address must be copied to a folder first" if ":/" in str(path) else ""
            if Path(f"{path}.index").is_file():  # the path is the prefix of a checkpoint's files
                hint = _of_a_model(path)
            raise BundleError(f"{path} is not a bundle: there is no folder of that name{hint}") from None
        except OSError as error:
            raise BundleError(f"{path} is not a bundle: {error.strerror}") from None
        with _explained(path, folder):
            with folder.open(MANIFEST_NAME) as file:
                text = file.read(MAX_MANIFEST_BYTES + 1)
            if len(text) > MAX_MANIFEST_BYTES:
                raise BundleError(f"{MANIFEST_NAME} is larger than {MAX_MANIFEST_BYTES >> 20} MiB")
            bundle = cls(path, parse_manifest(text), folder, verify)
            for name in bundle.manifest.files:
                bundle._check_file(name)
            folder.settle()
        return bundle

    def file(self, name: str) -> Path:
        """Return the path of one of the bundle's files."""
        if name not in self.manifest.files:
            raise BundleError(f"{self.path} has no file {name}")
        return self.path / name

    def graph(self, name: str) -> BundleGraph:
        """Return a graph for a runtime to load.

        Raises:
            BundleError: the bundle has no such graph, or the graph was changed or can't be read.
        """
        path = self.file(name)
        if name not in self._graphs:
            with _explained(self.path, self._folder):
                self._graphs[name] = self._read_graph(name)
        return BundleGraph(path, self._graphs[name], str(self._folder.path), self.manifest)

    def verify_weights(self) -> None:
        """Check the SHA-256 of the weights.

        Raises:
            BundleError: the weights were changed after export, or can't be read.
        """
        with self.open_weights() as file:
            self._check_sha256(WEIGHTS_NAME, hashlib.file_digest(file, "sha256").hexdigest())

    @contextmanager
    def open_weights(self) -> Iterator[BufferedReader]:
        """Open the weights file for reading inside a `with` block.

        If the block raises a BundleError, the bundle's name is added to the error's message.

        Raises:
            BundleError: the file can't be read, or was changed.
        """
        with _explained(self.path, self._folder), self._folder.open(WEIGHTS_NAME) as file:
            yield file

    def check_unchanged(self) -> None:
        """Refuse a bundle that was changed after it was opened.

        Raises:
            ChangedError: the folder or a file in it was written to, renamed or replaced.
        """
        if self._folder.has_changed():
            raise _changed(self.path)

    @property
    def identity(self) -> str:
        """SHA-256 (hex) of the file hashes in the manifest. Bundles with the same content have the same identity."""
        lines = (f"{name} {record.sha256}\n" for name, record in sorted(self.manifest.files.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def content_key(self) -> Hashable:
        """A key for comparing bundles. Two bundles that were opened from the same, unchanged files have equal keys."""
        return self.identity, self._folder.states

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._graphs.clear()
        # If the block failed because the bundle was changed, report the change instead of the block's own error.
        if value is None or isinstance(value, VmoeError):
            self.check_unchanged()

    def _check_file(self, name: str) -> None:
        if name.endswith(".onnx"):
            graph = self._read_graph(name)
            if name in (CANONICAL_GRAPH, INLINED_GRAPH, MERGING_GRAPH):
                self._graphs[name] = graph
            return
        with self._folder.open(name) as file:
            self._check_size(name)
            if self._verify and name != WEIGHTS_NAME:
                self._check_sha256(name, hashlib.file_digest(file, "sha256").hexdigest())

    def _read_graph(self, name: str) -> bytes:
        with self._folder.open(name) as file:
            self._check_size(name)
            if self._folder.size(name) > MAX_GRAPH_BYTES:
                raise BundleError(f"{name} is larger than {MAX_GRAPH_BYTES >> 20} MiB, which no graph of a bundle is")
            graph = file.read(MAX_GRAPH_BYTES)
        if self._verify:
            self._check_sha256(name, hashlib.sha256(graph).hexdigest())
        weights = self.manifest.files[WEIGHTS_NAME].size
        try:
            references = external_data(graph)
        except BundleError as error:
            raise BundleError(f"{name} is {error}") from None
        for location, offset, length in references:
            if location != WEIGHTS_NAME:
                raise BundleError(f"{name} reads {location!r:.100}, and a graph may read {WEIGHTS_NAME} only")
            if length > weights - offset:
                raise BundleError(f"{name} reads past the end of {WEIGHTS_NAME}")
        return graph

    def _check_size(self, name: str) -> None:
        size, expected = self._folder.size(name), self.manifest.files[name].size
        if size != expected:
            raise BundleError(f"{name} has {size} bytes where the manifest says {expected}")

    def _check_sha256(self, name: str, digest: str) -> None:
        if digest != self.manifest.files[name].sha256:
            raise BundleError(f"{name} was changed after export (its SHA-256 differs)")


def while_unchanged(load: Callable[[], Loaded]) -> Loaded:
    """Return the result of `load`. If the bundle is replaced during the call, call `load` again.

    For example, a new export replaces the bundle.

    Raises:
        ChangedError: the bundle was replaced during every attempt.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return load()
        except ChangedError:
            continue
    return load()


@contextmanager
def _explained(path: Path, folder: WatchedFolder) -> Iterator[None]:
    """Add the bundle's name to the errors that the `with` block raises.

    If the folder was changed while the block ran, raise a ChangedError instead of the block's error.
    """
    try:
        yield
    except (BundleError, OSError) as error:
        if isinstance(error, ChangedError) or folder.has_changed():
            raise _changed(path) from None
        if isinstance(error, OSError):
            name = Path(error.filename).name if error.filename else "a file"
            what, hint = (" is not a bundle", _of_a_model(path)) if name == MANIFEST_NAME else ("", "")
            raise BundleError(f"{path}{what}: {name}: {error.strerror}{hint}") from None
        raise BundleError(f"{path}: {error}") from None


def _of_a_model(path: Path) -> str:
    return f"; if it is a model, vmoe export {path} makes a bundle of it"


def _changed(path: Path) -> ChangedError:
    return ChangedError(f"{path} was changed while it was loaded; load it again once nobody writes to it")
