"""Programs for 64-bit ARM on another machine."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

ARM_COMPILER = "aarch64-linux-gnu-g++"
_LIBRARIES = Path("/usr/aarch64-linux-gnu")


def arm_emulator() -> list[str]:
    """What runs a program for 64-bit ARM, which follows it; skips where this machine lacks it, or a compiler for such."""
    if not shutil.which("qemu-aarch64") or not shutil.which(ARM_COMPILER) or not _LIBRARIES.is_dir():
        pytest.skip("no emulator of 64-bit ARM, or no compiler or C library for it")
    return ["qemu-aarch64", "-L", str(_LIBRARIES)]
