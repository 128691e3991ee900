"""The core alone, on every CPU path: every layer against the path in plain C++, and on memory that can't be read.

The paths of this machine are those of the library that was built for it. Those of 64-bit ARM are compiled for it and run in
an emulator of several processors, where there are fewer rounds.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from arm_emulator import ARM_COMPILER, arm_emulator
from kept_build import kept
from sdk_build import built, generator, locked, run

ROOT = Path(__file__).parents[2]
FLAGS = ("-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", f"-I{ROOT / 'plugins'}")
LIBRARY = ROOT / "build" / "native" / "core" / "libvmoe_core.a"
NATIVE = ("c++",)

on_this_machine = pytest.mark.skipif(
    not shutil.which(*NATIVE) or not LIBRARY.is_file(), reason="no C++ compiler, or the core was not built here"
)


@on_this_machine
def test_every_cpu_path_of_this_machine_is_right() -> None:
    lines = built(_program("core_check", NATIVE, LIBRARY)).splitlines()
    assert "scalar: right" in lines
    assert all(line.endswith((": right", ": used")) for line in lines)


@pytest.mark.parametrize(
    ("processor", "paths"),
    [
        ("cortex-a53", ("neon",)),
        ("cortex-a76", ("neon", "neon_dot")),
        ("neoverse-n1", ("neon", "neon_dot")),
        ("neoverse-v1", ("neon", "neon_dot", "neon_i8mm", "neon_bf16")),
        ("max", ("neon", "neon_dot", "neon_i8mm", "neon_bf16")),
    ],
)
def test_every_path_of_an_arm_processor_is_right_and_the_best_is_used(processor: str, paths: Sequence[str]) -> None:
    emulator = arm_emulator()
    folder = ROOT / "build" / "arm"
    with locked(folder):
        target = [f"-DCMAKE_CXX_COMPILER={ARM_COMPILER}", "-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"]
        built("cmake", "-S", ROOT / "plugins", "-B", folder, *generator(), *target, "-DVMOE_GPU=OFF")
        built("cmake", "--build", folder, "--parallel", "2", "--target", "vmoe_core")
    program = _program("core_check", (ARM_COMPILER,), folder / "core" / "libvmoe_core.a", "_aarch64")
    right = [f"{path}: right" for path in ("scalar", *paths, "neon_bf16_emulated")]
    assert built(*emulator, "-cpu", processor, program, "3").splitlines() == [*right, f"{paths[-1]}: used"]


@on_this_machine
def test_a_call_reads_no_byte_of_an_expert_without_rows() -> None:
    program = _program("expert_bytes", NATIVE, LIBRARY)
    lines = built(program, "unused").splitlines()
    paths = {line.split()[0] for line in lines}
    assert "scalar" in paths
    kinds = [f"{element} {width}" for element in ("float32", "bfloat16", "int8", "int4") for width in (1024, 1000)]
    assert sorted(lines) == sorted(f"{path} {kind}: right" for path in paths for kind in kinds)
    # It would be noticed.
    assert run(program, "used").returncode == -signal.SIGSEGV


@on_this_machine
@pytest.mark.parametrize("page", ["4096", "16384", "65536"])
def test_buffers_are_whole_pages_of_the_system_and_all_go_back(page: str) -> None:
    """Every processor here has pages of 4 KiB: a larger one is what the program's own system calls say."""
    assert built(_program("page_sizes", NATIVE, LIBRARY), page).splitlines() == ["0 calls failed, 0 pages stay"]


def _program(name: str, compiler: Sequence[str], core: Path, suffix: str = "") -> Path:
    return kept(name + suffix, *compiler, *FLAGS, ROOT / "tests" / "cpp" / f"{name}.cc", core, "-lpthread")
