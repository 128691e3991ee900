"""Writes into the cache folder: engines, and whatever else a build leaves for the next one."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from vmoe_runtime.backends.tensorrt.engine_cache import EngineCacheError, EngineRecord, private_folder


def store_engine(engine: bytes, record: EngineRecord) -> None:
    """Puts an engine into the cache, in place of one with the same key.

    Raises:
        EngineCacheError: it can't be written; what was there before is unchanged.
    """
    private_folder("tensorrt")
    write_private(record.key.file, json.dumps(asdict(record)).encode() + b"\n" + engine)


def write_private(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all, for this user alone.

    Raises:
        EngineCacheError: it can't be written.
    """
    try:
        with tempfile.NamedTemporaryFile(prefix=f".{path.name}.", dir=path.parent, delete=False) as file:
            try:
                file.write(content)
                file.flush()
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink()
                raise
    except OSError as error:
        raise EngineCacheError(f"{path} can't be written: {error.strerror}") from None
