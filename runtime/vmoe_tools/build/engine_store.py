"""Stores engines in the cache folder."""

from __future__ import annotations

import json
from dataclasses import asdict

from vmoe_runtime.backends.tensorrt.engine_cache import EngineRecord, private_folder
from vmoe_tools.output import write_bytes

FOR_OWNER = 0o600
"""The mode of files in the cache: only their owner may read and write them."""


def store_engine(engine: bytes, record: EngineRecord) -> None:
    """Store an engine in the cache. A stored engine with the same key is replaced.

    Raises:
        EngineCacheError: the cache folder can't be used.
        click.ClickException: the file can't be written. An existing file stays unchanged.
    """
    private_folder("tensorrt")
    write_bytes(record.key.file, json.dumps(asdict(record)).encode() + b"\n" + engine, FOR_OWNER)
