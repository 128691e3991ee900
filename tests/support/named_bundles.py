"""Bundles with ten classes whose names are difficult to print in terminals, tables and pictures."""

from __future__ import annotations

from pathlib import Path

from damaged_files import copied_bundle, put

ODD_NAMES = ("zero", "[/b]one", "two\x1b[2J", "$three$", "four", "five", "six", "seven", "eight", "nine" * 60)


def with_odd_names(bundle: Path, folder: Path) -> Path:
    """Copy a bundle that has ten classes into a folder, and give the classes of the copy the odd names."""
    return copied_bundle(bundle, folder / "named.vmoe", put("class_names", ODD_NAMES))
