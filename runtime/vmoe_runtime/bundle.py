"""Opens a bundle folder and proves that every file in it is the one that was exported."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from vmoe_runtime.errors import BundleError
from vmoe_runtime.external_data import external_data
from vmoe_runtime.manifest import MANIFEST_NAME, WEIGHTS_NAME, Manifest, parse_manifest

_MAX_MANIFEST_BYTES = 16 << 20
_MAX_GRAPH_BYTES = 64 << 20


@dataclass(frozen=True)
class Bundle:
    """A checked bundle: its folder and its manifest."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, verify: bool = True) -> Bundle:
        """Reads the manifest and checks every file against it, but for the SHA-256 of the weights.

        The weights are by far the largest file; `verify_weights` may run while a backend loads the graphs.

        Args:
            path: the `NAME.vmoe` folder.
            verify: compare SHA-256s. Without it only names, sizes and external-data references are checked.

        Raises:
            BundleError: the folder is no bundle, or a file is missing, changed, or reaches outside the bundle.
        """
        folder = Path(path)
        try:
            if not folder.is_dir():
                raise BundleError(f"{folder} is not a bundle: there is no such folder")
        except OSError as error:
            raise BundleError(f"{folder} is not a bundle: {error.strerror}") from None
        try:
            with _own_file(folder, MANIFEST_NAME).open("rb") as file:
                text = file.read(_MAX_MANIFEST_BYTES + 1)
            if len(text) > _MAX_MANIFEST_BYTES:
                raise BundleError(f"{MANIFEST_NAME} is larger than {_MAX_MANIFEST_BYTES >> 20} MiB")
            manifest = parse_manifest(text)
            bundle = cls(folder, manifest)
            for name in manifest.files:
                bundle._check_file(name, verify and name != WEIGHTS_NAME)
        except OSError as error:
            raise BundleError(f"{folder} is not a bundle: {MANIFEST_NAME}: {error.strerror}") from None
        except BundleError as error:
            raise BundleError(f"{folder}: {error}") from None
        return bundle

    def file(self, name: str) -> Path:
        """The path of one file of the bundle."""
        if name not in self.manifest.files:
            raise BundleError(f"{self.path} has no file {name}")
        return self.path / name

    def verify_weights(self) -> None:
        """Compares the SHA-256 of the weights.

        Raises:
            BundleError: they were changed after export, or can't be read.
        """
        try:
            self._check_sha256(WEIGHTS_NAME)
        except OSError as error:
            raise BundleError(f"{self.path}: {WEIGHTS_NAME}: {error.strerror}") from None
        except BundleError as error:
            raise BundleError(f"{self.path}: {error}") from None

    @property
    def identity(self) -> str:
        """SHA-256 (hex) over the manifest's file hashes: equal for equal content."""
        lines = (f"{name} {record.sha256}\n" for name, record in sorted(self.manifest.files.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def _check_file(self, name: str, verify: bool) -> None:
        record = self.manifest.files[name]
        try:
            path = _own_file(self.path, name)
            size = path.stat().st_size
            if size != record.size:
                raise BundleError(f"{name} has {size} bytes where the manifest says {record.size}")
            if name.endswith(".onnx") and size > _MAX_GRAPH_BYTES:
                raise BundleError(f"{name} is larger than {_MAX_GRAPH_BYTES >> 20} MiB, which no graph of a bundle is")
            if verify:
                self._check_sha256(name)
            if name.endswith(".onnx"):
                self._check_external_data(name, path.read_bytes())
        except OSError as error:
            raise BundleError(f"{name}: {error.strerror}") from None

    def _check_sha256(self, name: str) -> None:
        with (self.path / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != self.manifest.files[name].sha256:
            raise BundleError(f"{name} was changed after export (its SHA-256 differs)")

    def _check_external_data(self, name: str, graph: bytes) -> None:
        weights = self.manifest.files[WEIGHTS_NAME].size
        try:
            references = external_data(graph)
        except BundleError as error:
            raise BundleError(f"{name} is {error}") from None
        for reference in references:
            if reference.location != WEIGHTS_NAME:
                raise BundleError(f"{name} reads {reference.location!r}, and a graph may read {WEIGHTS_NAME} only")
            if reference.offset < 0 or not 0 <= (reference.length or 0) <= weights - reference.offset:
                raise BundleError(f"{name} reads past the end of {WEIGHTS_NAME}")


def _own_file(folder: Path, name: str) -> Path:
    """The file itself: a link could lead out of the bundle, and reading a pipe might never end."""
    path = folder / name
    mode = path.lstat().st_mode
    if not stat.S_ISREG(mode):
        kind = "link" if stat.S_ISLNK(mode) else "folder" if stat.S_ISDIR(mode) else "device or pipe"
        raise BundleError(f"{name} is a {kind}, and a bundle holds plain files only")
    return path
