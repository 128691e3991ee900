"""The wheels that `make wheel` makes, built once for all test processes, and installed into a folder."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from sdk_build import locked
from wheels import wheel_folder

from vmoe_runtime.installation import OP_LIBRARY, SDK_LIBRARY, find_native

ROOT = Path(__file__).parents[2]
ARCHITECTURES = ("x86_64", "aarch64")
_OUT = ROOT / "build" / "wheel" / "dist"
_ARM_LIBRARIES = Path("/usr/aarch64-linux-gnu")


def built() -> dict[str, str]:
    """What the builder says of each file, by its name; skips where zig or the headers are not to be had.

    It compiles again only what changed since the tests ran last.
    """
    done = _build()
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(line.split(": ", 1) for line in done.stdout.splitlines())


def core(arch: str) -> Path:
    """The kernels of a wheel as a static library."""
    assert built()
    return _OUT.parent / arch / "core" / "libvmoe_core.a"


def compiler(arch: str) -> list[str]:
    """The command of the C++ compiler that the wheels come from, for an architecture."""
    return [str(_tools() / "ziglang" / "zig"), "c++", "-target", f"{arch}-linux-gnu.2.28", "-g0"]


def arm_emulator() -> list[str]:
    """What runs a program for 64-bit ARM, which follows it; skips where this machine lacks it."""
    if not shutil.which("qemu-aarch64") or not _ARM_LIBRARIES.is_dir():
        pytest.skip("no emulator of 64-bit ARM, or no C library for it")
    return ["qemu-aarch64", "-L", str(_ARM_LIBRARIES)]


def _tools() -> Path:
    wanted = (ROOT / "tools" / "requirements.txt").read_text().splitlines()
    return wheel_folder(*(line for line in wanted if line.startswith(("ziglang", "auditwheel"))), "pyelftools")


@functools.cache
def _build() -> subprocess.CompletedProcess[str]:
    if not all(find_native("lib", name) for name in (OP_LIBRARY, SDK_LIBRARY)):
        pytest.skip("this machine lacks what the native libraries need")
    tools = _tools()
    with locked(_OUT):
        return subprocess.run(
            [sys.executable, ROOT / "tools" / "build_wheels.py", _OUT],
            env={**os.environ, "PYTHONPATH": str(tools)},
            capture_output=True,
            text=True,
            check=False,
        )


def wheel(arch: str) -> Path:
    """The wheel of one architecture."""
    (name,) = (name for name in built() if name.endswith(f"_{arch}.whl"))
    return _OUT / name


@functools.cache
def unpacked(arch: str, folder: Path) -> Path:
    """The folder of the package vmoe_runtime in an unpacked wheel."""
    with zipfile.ZipFile(wheel(arch)) as archive:
        archive.extractall(folder)
    return folder / "vmoe_runtime"
