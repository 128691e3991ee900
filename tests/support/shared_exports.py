"""Bundles that all test processes share.

A bundle is exported again only if the product, an input or an option has changed.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sdk_build import ROOT, locked

from vmoe_export import export_bundle

EXPORTS = ROOT / "build" / "exports"


def shared_export(name: str, checkpoint: Path, **options: Any) -> Path:
    """Return the path of the bundle build/exports/NAME-KEY/NAME.vmoe, which tests must not change.

    Export the bundle if it doesn't exist yet.

    Args:
        name: name of the bundle. Only the latest export with each name is kept.
        checkpoint: a file. All files whose names begin with this file's name, such as `.index` and shards, belong to the
            checkpoint.
        options: options of `export_bundle`.
    """
    inputs = [
        *checkpoint.parent.glob(f"{checkpoint.name}*"),
        *(value for value in options.values() if isinstance(value, Path)),
    ]
    described = repr(sorted(options.items())) + _digest(inputs) + _product()
    folder = EXPORTS / f"{name}-{hashlib.sha256(described.encode()).hexdigest()[:16]}"
    with locked(EXPORTS):
        if not (folder / f"{name}.vmoe").is_dir():  # exports appear whole
            for old in EXPORTS.glob(f"{name}-*"):
                shutil.rmtree(old)
            folder.mkdir()
            export_bundle(checkpoint, folder / f"{name}.vmoe", validate=False, **options)
    return folder / f"{name}.vmoe"


@functools.cache
def _product() -> str:
    return _digest(path for package in ("exporter", "runtime") for path in (ROOT / package).rglob("*.py"))


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()
