"""A GPU emulator that implements the kernels' interface on the CPU.

The GPU benchmark can use the emulator and a `HostDevice` to run without a GPU. Such a run tests neither the kernels nor
`gpu/device.py`.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import pytest
from command_line import BenchmarkError
from kept_build import kept
from on_gpu.library import CALLS, PLUGINS, find_nvcc

ROOT = Path(__file__).parents[2]


@functools.cache
def nvcc() -> Path:
    try:
        return find_nvcc()
    except BenchmarkError as error:
        pytest.skip(str(error))


def build_emulator() -> Path:
    """Build the emulator's library."""
    # Call g++ through nvcc, so that g++ finds CUDA's headers. CUDA's runtime is not linked, because the emulator contains
    # its own runtime.
    flags = ["-std=c++17", "-O1", "-cudart", "none", "-Xcompiler=-ffp-contract=off,-Wall,-Wextra,-Werror,-pthread"]
    sources = [Path(__file__).parents[1] / "cpp" / "gpu_emulator.cc", PLUGINS / "cuda" / "route_plan.cc", CALLS]
    kernels = {"routing", "dispatch", "workspace"}
    sources += sorted(path for path in (PLUGINS / "core").glob("*.cc") if path.stem in kernels)
    return kept("libgpu_emulator.so", nvcc(), *flags, f"-I{PLUGINS}", "-Xcompiler=-fPIC", "-shared", *sources)


def has_gpu() -> bool:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int()
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
