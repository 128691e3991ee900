"""A stand-in for a GPU: the kernels' interface on the CPU's memory, which can be told to be wrong, and a device for it.

With it the GPU benchmark runs where there is no GPU. Neither the kernels nor `gpu/device.py` run in it.
"""

from __future__ import annotations

import ctypes
import functools
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import BenchmarkError
from on_gpu.library import CALLS, PLUGINS, find_nvcc

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"


class HostDevice:
    """A device whose memory is the CPU's, with one stream, on which work is done at once."""

    def __init__(self) -> None:
        self.torch_device = torch.device("cpu")
        self.name, self.architecture, self.l2_bytes = "Stand-in 1", "sm_90", 1 << 16
        self.facts: dict[str, Any] = {"name": self.name, "architecture": self.architecture}

    def stream(self) -> int:
        return 0

    def synchronize(self) -> None:
        pass

    def on_streams(self, works: Sequence[Callable[[], None]]) -> None:
        for work in works:
            work()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        work()
        return work

    def milliseconds(self, work: Callable[[], None]) -> float:
        start = time.perf_counter()
        work()
        return (time.perf_counter() - start) * 1e3

    def release(self) -> None:
        pass


@functools.cache
def nvcc() -> Path:
    try:
        return find_nvcc()
    except BenchmarkError as error:
        pytest.skip(str(error))


def build_stand_in(folder: Path) -> Path:
    """The stand-in's library."""
    # As nvcc's host compiler it knows where CUDA's headers are; the stand-in takes the CUDA runtime's place.
    flags = ["-std=c++17", "-O1", "-cudart", "none", "-Xcompiler=-ffp-contract=off,-Wall,-Wextra,-Werror,-pthread"]
    sources = [Path(__file__).parents[1] / "cpp" / "gpu_stand_in.cc", PLUGINS / "cuda" / "route_plan.cc", CALLS]
    sources += [PLUGINS / "core" / name for name in ("routing.cc", "dispatch.cc", "combine.cc", "workspace.cc")]
    library = folder / "libstand_in.so"
    command = [nvcc(), *flags, f"-I{PLUGINS}", "-Xcompiler=-fPIC", "-shared", *sources, "-o", library]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return library


def has_gpu() -> bool:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int()
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
