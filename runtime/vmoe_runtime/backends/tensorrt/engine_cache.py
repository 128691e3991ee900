"""The cache folder: TensorRT engines, each with a record of what it was built from and for.

An engine is code: whoever can write it can run anything as the user who loads it. So nothing is read that another user
owns or may write, and an engine's bytes are compared with its record before anything else sees them. A bundle is never a
cache: engines are of one GPU and one version of TensorRT.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from vmoe_runtime.errors import BackendError

_FORMAT = 2
_MAX_RECORD_BYTES = 1 << 16
_MAX_ENGINE_BYTES = 1 << 37
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class EngineCacheError(BackendError):
    """The cache folder, or a file in it, that can't be used or must not be trusted."""


@dataclass(frozen=True)
class EngineKey:
    """What an engine is built from and for; it fits nothing else.

    Attributes:
        bundle: the bundle's identity, a SHA-256 in hex.
        profile: name of the profile; None for a dense ViT.
        precision: "fp32", "fp16" or "bf16".
        tensorrt: full version of TensorRT, such as "10.13.0.35".
        plugin: SHA-256 of the plugin library, in hex; None where this installation has none.
        package: version of this package.
        gpu: name of the GPU.
        compute_capability: such as "9.0".
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
    def stem(self) -> str:
        """File name of the engine without its ending: the profile, and a hash over the whole key."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return f"{self.profile or 'dense'}-{digest[:16]}"


@dataclass(frozen=True)
class EngineRecord:
    """What stands beside an engine.

    Attributes:
        key: what it was built from and for.
        min_batch, opt_batch, max_batch: images per call that it takes, and that it was tuned for.
        plugin_inside: whether the plugin library is stored in the engine.
        sha256: of the engine, in hex.
        size: of the engine, in bytes.
    """

    key: EngineKey
    min_batch: int
    opt_batch: int
    max_batch: int
    plugin_inside: bool
    sha256: str
    size: int

    def to_json(self) -> str:
        """The record as the text of its file."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Reads a record.

        Raises:
            ValueError: it is none.
        """
        raw = json.loads(text)
        if not isinstance(raw, dict) or raw.pop("format", None) != _FORMAT:
            raise ValueError("it is of another format")
        return cls(key=_fields(EngineKey, raw.pop("key", None)), **_checked(cls, raw, without="key"))


def cache_folder() -> Path:
    """VMOE_CACHE_DIR; without it `vmoe-export` in XDG_CACHE_HOME or in ~/.cache. It need not exist.

    Raises:
        EngineCacheError: there is no home folder.
    """
    if chosen := os.environ.get("VMOE_CACHE_DIR"):
        return Path(chosen).absolute()
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    if Path(xdg).is_absolute():  # others are to be ignored, says the XDG specification
        return Path(xdg, "vmoe-export")
    try:
        return Path.home() / ".cache" / "vmoe-export"
    except RuntimeError:
        raise EngineCacheError("there is no home folder for the cache: set VMOE_CACHE_DIR to a folder") from None


def private_folder(*names: str) -> Path:
    """A folder below the cache folder that nobody else can write to; made where it is missing.

    Raises:
        EngineCacheError: it can't be made, or others own it or may write to it.
    """
    folder = cache_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_others(folder, folder.stat())
        for name in names:
            folder /= name
            folder.mkdir(mode=0o700, exist_ok=True)
            _refuse_others(folder, folder.lstat())
    except OSError as error:
        raise EngineCacheError(
            f"the cache folder {error.filename or folder} can't be used: {error.strerror}; set VMOE_CACHE_DIR to another one"
        ) from None
    return folder


def file_digest(file: Path) -> str:
    """SHA-256 of a file that engines are made with, in hex.

    Raises:
        EngineCacheError: it can't be read.
    """
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise EngineCacheError(f"{file} can't be read: {error.strerror}") from None


def engine_path(key: EngineKey) -> Path:
    """Where an engine lies, or would lie."""
    return _bundle_folder(key.bundle) / f"{key.stem}.engine"


def store_engine(engine: bytes, record: EngineRecord) -> Path:
    """Puts an engine and its record into the cache, in place of one with the same key.

    Raises:
        EngineCacheError: they can't be written; what was there before is then whole, or refused at load.
    """
    private_folder(*_bundle_folder(record.key.bundle).relative_to(cache_folder()).parts)
    path = engine_path(record.key)
    write_private(path, engine)
    write_private(path.with_suffix(".json"), record.to_json().encode())
    return path


def find_record(key: EngineKey) -> EngineRecord | None:
    """The record of the engine with this key, if there is one that fits.

    Raises:
        EngineCacheError: it must not be trusted.
    """
    path = engine_path(key).with_suffix(".json")
    record = _read_record(path)
    if record is not None and record.key != key:
        raise EngineCacheError(f"{path} is the record of another engine: {difference(record.key, key)}")
    return record


def load_engine(key: EngineKey) -> tuple[bytes, EngineRecord] | None:
    """An engine that is what its record says, or None if none was built for this key.

    Raises:
        EngineCacheError: the engine was changed or is gone, or it must not be trusted.
    """
    record = find_record(key)
    if record is None:
        return None
    path = engine_path(key)
    engine = read_private(path, _MAX_ENGINE_BYTES)
    if engine is None:
        raise EngineCacheError(f"{path} is gone, though its record is there")
    if len(engine) != record.size or hashlib.sha256(engine).hexdigest() != record.sha256:
        raise EngineCacheError(f"{path} was changed after it was built (its SHA-256 differs)")
    return engine, record


def other_engines(key: EngineKey) -> list[EngineKey]:
    """Keys of the other engines of the same bundle; what can't be read is left out."""
    found = []
    for path in sorted(_bundle_folder(key.bundle).glob("*.json")):
        with contextlib.suppress(EngineCacheError):
            record = _read_record(path)
            if record is not None and record.key != key:
                found.append(record.key)
    return found


def difference(found: EngineKey, wanted: EngineKey) -> str:
    """What one engine is of, where that is not what is wanted, in words."""
    differing = [
        # Of a hash, so much that it can be told from another one.
        f"{words} {str(getattr(found, name))[:40]}, not {str(getattr(wanted, name))[:40]}"
        for name, words in {
            "bundle": "bundle",
            "profile": "profile",
            "precision": "precision",
            "tensorrt": "TensorRT",
            "plugin": "plugin",
            "package": "vmoe-export",
            "gpu": "GPU",
            "compute_capability": "compute capability",
        }.items()
        if getattr(found, name) != getattr(wanted, name)
    ]
    return "; ".join(differing)


def read_private(path: Path, limit: int = _MAX_ENGINE_BYTES) -> bytes | None:
    """Content of a file of the cache that nobody else can have written; None if there is no such file.

    Raises:
        EngineCacheError: others own it or may write it, or a folder above it; it is no plain file, too large, or unreadable.
    """
    root = cache_folder()
    try:
        for parent in path.relative_to(root).parents:
            _refuse_others(root / parent, (root / parent).stat())
        # A link could lead anywhere, and opening a pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode):
                raise EngineCacheError(f"{path} is no plain file")
            _refuse_others(path, state)
            if state.st_size > limit:
                raise EngineCacheError(f"{path} is larger than {limit} bytes")
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(state.st_size)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise EngineCacheError(f"{path} can't be read: {error.strerror}") from None


def write_private(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all, for this user alone.

    Raises:
        EngineCacheError: it can't be written.
    """
    part = None
    try:
        descriptor, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with open(descriptor, "wb") as file:  # noqa: PTH123  (of a descriptor)
            file.write(content)
        Path(part).replace(path)
        part = None
    except OSError as error:
        raise EngineCacheError(f"{path} can't be written: {error.strerror}") from None
    finally:
        if part is not None:
            Path(part).unlink(missing_ok=True)


def _bundle_folder(identity: str) -> Path:
    return cache_folder() / "tensorrt" / identity[:32]


def _refuse_others(path: Path, state: os.stat_result) -> None:
    # What root can write is not safer without it.
    if state.st_uid not in (os.geteuid(), 0):
        raise EngineCacheError(f"{path} belongs to another user, who could put anything there; remove it")
    if state.st_mode & _WRITABLE_BY_OTHERS:
        raise EngineCacheError(f"{path} can be written by other users; run chmod go-w on it, or remove it")


def _read_record(path: Path) -> EngineRecord | None:
    text = read_private(path, _MAX_RECORD_BYTES)
    if text is None:
        return None
    try:
        return EngineRecord.from_json(text)
    except (ValueError, RecursionError) as error:
        raise EngineCacheError(f"{path} is not the record of an engine ({error})") from None


def _fields(kind: type[EngineKey], raw: object) -> EngineKey:
    if not isinstance(raw, dict):
        raise ValueError("it has no key")
    return kind(**_checked(kind, raw))


def _checked(kind: type, raw: dict[str, Any], without: str = "") -> dict[str, Any]:
    """The fields of a dataclass, if they are exactly those and of the right types."""
    types = {"str": str, "str | None": str | None, "int": int, "bool": bool}
    wanted = {name: types[text] for name, text in kind.__annotations__.items() if name != without}
    if raw.keys() != wanted.keys():
        raise ValueError("its fields are not those of this version")
    for name, value in raw.items():
        if not isinstance(value, wanted[name]) or (isinstance(value, bool) and wanted[name] is not bool):
            raise ValueError(f"'{name}' is of the wrong type")
    return raw
