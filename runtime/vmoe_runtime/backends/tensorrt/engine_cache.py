"""The cache folder for TensorRT engines. Each file begins with a record that describes the engine and its key.

An engine is code. Whoever can write the file can run any code with the rights of the user who loads the engine. So a file is
never read if another user owns it or may write to it. Engines are not stored in the bundle, because each engine works on
only one GPU model with one version of TensorRT.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path

from vmoe_runtime.errors import BackendError

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class EngineCacheError(BackendError):
    """The cache folder or a file in it can't be used, or must not be trusted."""


@dataclass(frozen=True)
class EngineKey:
    """The model and the environment that an engine is built for. An engine must not be used with any other key.

    Attributes:
        bundle: the bundle's identity, a SHA-256 in hex.
        profile: name of the profile; None for a dense ViT.
        precision: "fp32", "fp16" or "bf16".
        tensorrt: full version of TensorRT, such as "10.13.0.35".
        plugin: SHA-256 of the plugin library, in hex; None if this installation has none.
        package: version of this package.
        gpu: name of the GPU.
        compute_capability: compute capability of the GPU, such as "9.0".
    """

    bundle: str
    profile: str | None
    precision: str
    tensorrt: str
    plugin: str | None
    package: str
    gpu: str
    compute_capability: str

    @property
    def file(self) -> Path:
        """Path of the engine's file, whether or not the file exists."""
        return cache_folder() / "tensorrt" / f"{self.profile or 'dense'}-{digest_of(asdict(self))}.engine"


@dataclass(frozen=True)
class EngineRecord:
    """A description of a built engine.

    Attributes:
        key: the model and the environment that the engine was built for.
        min_batch, opt_batch, max_batch: images per call: the minimum, the number that the engine was tuned for, and the
            maximum.
        plugin_inside: whether the plugin library is stored in the engine.
        sha256: SHA-256 of the engine, in hex.
        size: size of the engine in bytes.
    """

    key: EngineKey
    min_batch: int
    opt_batch: int
    max_batch: int
    plugin_inside: bool
    sha256: str
    size: int


def digest_of(content: object) -> str:
    """Return a short hash of a value, for use in file names. JSON must be able to represent the value."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def cache_folder() -> Path:
    """Return the path of the cache folder, whether or not the folder exists.

    If the environment variable VMOE_CACHE_DIR is set, its value is the path. Otherwise, the path is the folder `vmoe-export`
    in the folder that the environment variable XDG_CACHE_HOME specifies. The default of XDG_CACHE_HOME is ~/.cache.

    Raises:
        EngineCacheError: there is no home folder.
    """
    if chosen := os.environ.get("VMOE_CACHE_DIR"):
        return Path(chosen).absolute()
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    if Path(xdg).is_absolute():  # the XDG specification says to ignore relative paths
        return Path(xdg, "vmoe-export")
    try:
        return Path.home() / ".cache" / "vmoe-export"
    except RuntimeError:
        raise EngineCacheError("there is no home folder for the cache: set VMOE_CACHE_DIR to a folder") from None


def private_folder(*names: str) -> Path:
    """Return a folder below the cache folder that nobody else can write to. Create the folder if it is missing.

    Raises:
        EngineCacheError: the folder can't be created, or other users own it or may write to it.
    """
    folder = cache_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_others(folder)
        for name in names:
            folder /= name
            folder.mkdir(mode=0o700, exist_ok=True)
            _refuse_others(folder)
    except OSError as error:
        raise EngineCacheError(
            f"the cache folder {error.filename or folder} can't be used: {error.strerror}; set VMOE_CACHE_DIR to another one"
        ) from None
    return folder


def load_engine(key: EngineKey) -> tuple[bytes, EngineRecord] | None:
    """Return the engine that was built for `key`, with its record. Return None if no engine was built for `key`.

    Raises:
        EngineCacheError: the file was changed, or must not be trusted.
    """
    content = read_private(key.file)
    if content is None:
        return None
    head, _, engine = content.partition(b"\n")
    try:
        record = EngineRecord(**(json.loads(head) | {"key": key}))
        intact = json.dumps(asdict(record)).encode() == head and hashlib.sha256(engine).hexdigest() == record.sha256
    except (ValueError, TypeError, RecursionError):
        intact = False
    if not intact:
        raise EngineCacheError(f"{key.file} was changed after it was built")
    return engine, record


def read_private(path: Path) -> bytes | None:
    """Return the content of a cache file, or None if there is no such file.

    The file must be one that only this user and root can have written.

    Raises:
        EngineCacheError: other users own or may write to the file or a folder above it, or the file can't be read.
    """
    try:
        for checked in (cache_folder(), path.parent, path):
            _refuse_others(checked)
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise EngineCacheError(f"{path} can't be read: {error.strerror}") from None


def _refuse_others(path: Path) -> None:
    state = path.stat()
    # Files that root owns are trusted, since root can write to any file anyway.
    if state.st_uid not in (os.geteuid(), 0):
        raise EngineCacheError(f"{path} belongs to another user, who could put anything there; remove it")
    if state.st_mode & _WRITABLE_BY_OTHERS:
        raise EngineCacheError(f"{path} can be written by other users; run chmod go-w on it, or remove it")
