"""Tests for the core without ONNX Runtime, on every CPU path.

The results of every layer are compared with those of the path in plain C++. The experts' MLP must not read the weights of
unused experts, which are in unreadable memory. The tested paths are those for this machine. test_arm.py tests the paths for
64-bit ARM.
"""

from __future__ import annotations

import platform
import shutil
import signal
from pathlib import Path

import pytest
from kept_build import kept
from sdk_build import built, run

ROOT = Path(__file__).parents[2]
FLAGS = ("-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", f"-I{ROOT / 'plugins'}")
LIBRARY = ROOT / "build" / "native" / "core" / "libvmoe_core.a"

on_this_machine = pytest.mark.skipif(
    not shutil.which("c++") or not LIBRARY.is_file(), reason="no C++ compiler, or the core was not built here"
)


@on_this_machine
def test_every_cpu_path_of_this_machine_is_right() -> None:
    lines = built(_program("core_check")).splitlines()
    assert "scalar: right" in lines
    assert all(line.endswith((": right", ": used")) for line in lines)


@on_this_machine
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the program reads x86's flags")
def test_activations_and_softmaxes_meet_no_subnormal() -> None:
    lines = built(_program("ladder", ROOT / "benchmarks"), "--check").splitlines()
    kernels = 4 * 4 + 3  # four activations in four precisions, and three softmaxes
    assert len(lines) % kernels == 0
    assert lines[0].startswith("scalar, ")
    assert [line for line in lines if not line.endswith(": 0")] == []


@pytest.mark.slow
@on_this_machine
def test_a_call_reads_no_byte_of_an_expert_without_rows() -> None:
    program = _program("expert_bytes")
    lines = built(program, "unused").splitlines()
    paths = {line.split()[0] for line in lines}
    assert "scalar" in paths
    kinds = [f"{element} {width}" for element in ("float32", "bfloat16", "int8", "int4") for width in (1024, 1000)]
    assert sorted(lines) == sorted(f"{path} {kind}: right" for path in paths for kind in kinds)
    # Check that the test would notice an access to unreadable memory.
    assert run(program, "used").returncode == -signal.SIGSEGV


@on_this_machine
@pytest.mark.parametrize("page", ["4096", "16384", "65536"])
def test_buffers_are_whole_pages_of_the_system_and_all_go_back(page: str) -> None:
    """Test buffers at several page sizes.

    The program imitates these sizes by replacing system calls, because real pages have 4 KiB on this machine.
    """
    assert built(_program("page_sizes"), page).splitlines() == ["0 calls failed, 0 pages stay"]


def _program(name: str, folder: Path = ROOT / "tests" / "cpp") -> Path:
    return kept(name, "c++", *FLAGS, folder / f"{name}.cc", LIBRARY, "-lpthread")
