"""The core against plain loops in double precision, on every CPU path; the NEON path in an emulator."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [ROOT / "tests" / "cpp" / "core_check.cc", *sorted((ROOT / "plugins" / "core").glob("*.cc"))]
HIGHWAY = Path("/usr/include/hwy")


@pytest.mark.skipif(not shutil.which("c++") or not HIGHWAY.is_dir(), reason="no C++ compiler, or no Highway")
def test_every_cpu_path_of_this_machine_is_right(tmp_path: Path) -> None:
    lines = _run(["c++"], [], tmp_path)
    assert "scalar: right" in lines
    assert all(line.endswith(": right") for line in lines)


@pytest.mark.skipif(not shutil.which("aarch64-linux-gnu-g++"), reason="no compiler for 64-bit ARM")
@pytest.mark.skipif(not shutil.which("qemu-aarch64"), reason="no emulator of 64-bit ARM")
def test_the_neon_path_is_right(tmp_path: Path) -> None:
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "hwy").symlink_to(HIGHWAY)
    compiler = ["aarch64-linux-gnu-g++", "-static", f"-I{tmp_path / 'include'}"]
    assert _run(compiler, ["qemu-aarch64"], tmp_path) == ["scalar: right", "neon: right"]


def _run(compiler: list[str], emulator: list[str], folder: Path) -> list[str]:
    program = folder / "core_check"
    flags = ["-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", f"-I{ROOT / 'plugins'}"]
    subprocess.run([*compiler, *flags, *map(str, SOURCES), "-o", str(program), "-lpthread"], check=True)
    result = subprocess.run([*emulator, str(program)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.splitlines()
