"""Bundles whose ten classes have names that a terminal, a table or a picture could trip over."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

ODD_NAMES = ("zero", "[/b]one", "two\x1b[2J", "$three$", "four", "five", "six", "seven", "eight", "nine" * 60)


def with_odd_names(bundle: Path, folder: Path) -> Path:
    """A copy of a bundle of ten classes, in that folder, whose classes have these names."""
    target = folder / "named.vmoe"
    shutil.copytree(bundle, target)
    raw = json.loads((target / "manifest.json").read_text())
    (target / "manifest.json").write_text(json.dumps({**raw, "class_names": ODD_NAMES}))
    return target
