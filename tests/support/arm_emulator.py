"""Builds programs for 64-bit ARM on a machine with another processor, and runs them in an emulator."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from kept_build import kept
from sdk_build import ROOT, SOURCES, Runner, built, generator, locked, onnxruntime_library, scratch_folder
from wheels import wheel_folder

ARM_COMPILER = "aarch64-linux-gnu-g++"
_LIBRARIES = Path("/usr/aarch64-linux-gnu")
_ONNXRUNTIME = "1.32.0"


def arm_emulator() -> list[str]:
    """Return the command that starts the 64-bit ARM emulator.

    If this machine lacks the emulator or the compiler, skip the test.
    """
    if not shutil.which("qemu-aarch64") or not shutil.which(ARM_COMPILER) or not _LIBRARIES.is_dir():
        pytest.skip("no emulator of 64-bit ARM, or no compiler or C library for it")
    return ["qemu-aarch64", "-L", str(_LIBRARIES)]


@functools.cache
def arm_program(name: str, library: str) -> Path:
    """Build a test program and a library of this project for 64-bit ARM, and link them.

    The program `name` is in tests/cpp. `library` is a file name, such as libvmoe_core.a. The results are kept in build/.
    """
    arm_emulator()
    folder = ROOT / "build" / "arm"
    system = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={ARM_COMPILER}"]
    # The SDK looks for the op library in the SDK's own folder. Put the SDK and the op library into one folder, as an
    # installation does.
    libraries = folder / "lib"
    side_by_side = [f"-DCMAKE_{kind}_OUTPUT_DIRECTORY={libraries}" for kind in ("ARCHIVE", "LIBRARY")]
    with locked(folder):
        built("cmake", "-S", ROOT / "plugins", "-B", folder, *generator(), *system, *side_by_side, "-DVMOE_GPU=OFF")
        built("cmake", "--build", folder, "--parallel", "2")
    flags = ["-std=c++17", "-O2", "-ffp-contract=off", f"-I{ROOT / 'plugins'}", f"-I{ROOT / 'plugins' / 'include'}"]
    linked = [libraries / library, f"-Wl,-rpath,{libraries}", "-lpthread"]
    return kept(f"{name}_aarch64", ARM_COMPILER, *flags, SOURCES / f"{name}.cc", *linked)


def arm_runner(program: Path, bundle: Path, options: Sequence[str] = (), threads: int = 1) -> closing[Runner]:
    """Start an `sdk_runner` for 64-bit ARM, and stop it at the end of the context.

    If pip can't fetch ONNX Runtime, skip the test.

    Args:
        program: an `sdk_runner` from `arm_program`.
        bundle: the bundle to load.
        options: options of the emulator.
        threads: threads per call.
    """
    runtime = wheel_folder("--platform", "manylinux_2_28_aarch64", f"onnxruntime=={_ONNXRUNTIME}")
    command, library = [*arm_emulator(), *options, program], onnxruntime_library(runtime / "onnxruntime")
    return closing(Runner(command, bundle, scratch_folder(), library=library, threads=threads))
