"""Writes into the cache folder: engines, and whatever else a build leaves for the next one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from vmoe_runtime.backends.tensorrt.engine_cache import EngineRecord, private_folder
from vmoe_tools.output import write_large_file


def store_engine(engine: bytes, record: EngineRecord) -> None:
    """Puts an engine into the cache, in place of one with the same key.

    Raises:
        EngineCacheError: the cache folder can't be used.
        click.ClickException: it can't be written; what was there before is unchanged.
    """
    private_folder("tensorrt")
    write_private(record.key.file, json.dumps(asdict(record)).encode() + b"\n" + engine)


def write_private(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all, for this user alone.

    Raises:
        click.ClickException: it can't be written.
    """
    write_large_file(path, lambda file: file.write(content), mode=0o600)
