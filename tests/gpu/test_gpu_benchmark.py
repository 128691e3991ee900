"""Tests for the GPU benchmark without a GPU.

They run the benchmark on an emulator, compile the kernels, and check what the benchmark reports if something is missing.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import gpu_costs
import pytest
from gpu import command, timing
from gpu.report import Report
from gpu_emulator import Emulator, build_emulator, nvcc
from host_device import HostDevice
from kept_build import kept
from on_gpu import cases, checks, gates, sanitizer
from on_gpu.cases import Case
from on_gpu.library import DeviceError, Library, library_command
from on_gpu.shape import Shape

SHAPE = Shape(2, 50, 8, 2, 9, 16)


def has_gpu() -> bool:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int()
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


@pytest.fixture
def small_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce the benchmark to a few cases and shapes, and omit compute-sanitizer."""
    monkeypatch.setattr(cases, "named_cases", lambda seed: [Case(SHAPE, "tied", seed)])
    monkeypatch.setattr(command, "WHOLE", command.WHOLE | {"random_cases": 3, "repeats": 2})
    several_tiles = replace(SHAPE, groups=1, tokens=1025, hidden=2)
    monkeypatch.setattr(checks, "LAUNCH_SHAPES", [SHAPE, several_tiles])
    monkeypatch.setattr(checks, "_LAYERS", (SHAPE, replace(SHAPE, type="bf16")))
    monkeypatch.setattr(checks, "_STREAMS", 2)
    monkeypatch.setattr(gates, "_SIZES", ((3, 24, 8), (9, 33, 7)))
    monkeypatch.setattr(command, "timed_shapes", lambda: [SHAPE, replace(SHAPE, bpr=False)])
    monkeypatch.setattr(timing, "_COPY_BYTES", 1 << 16)
    monkeypatch.setattr(sanitizer, "find_sanitizer", lambda: None)


def run_on_emulator(folder: Path, *arguments: str) -> tuple[Report, int]:
    report = command.run(command.parse_arguments(["-o", str(folder), *arguments]), HostDevice(), build_emulator())
    return report, report.end()


def test_a_run_writes_its_report(small_plan: None, tmp_path: Path, capsys: Any) -> None:
    report, code = run_on_emulator(tmp_path, "--parts", "exactness", "memcheck", "timing", "--seed", "9")
    assert report.path == tmp_path / "gpu_Emulator-1_exactness_memcheck_timing.md"
    text = report.path.read_text()
    assert text == capsys.readouterr().out
    assert report.failures == []
    assert re.findall(r"^- (.*): [\d,]+ checked, 0 wrong$", text, re.MULTILINE)[:2] == ["named cases", "random cases"]
    assert len(report.rows) == 8
    assert report.skipped == ["memcheck: compute-sanitizer isn't installed (it comes with the CUDA toolkit)"]
    assert code == 4


def test_wrong_bits_fail_the_run(emulator: Emulator, small_plan: None, tmp_path: Path) -> None:
    kernels = [kernel for _, kernel, text in emulator.statements() if text.startswith("shfl.sync")]
    emulator.remove(
        "exchange", next(i for i, kernel in enumerate(kernels) if re.search("gates_kernelILj4E.*Word16", kernel))
    )
    report, code = run_on_emulator(tmp_path, "--parts", "exactness")
    emulator.remove("exchange", len(kernels))  # restores it
    assert code == 1
    assert re.match(r"gates: gates \[3, 8\] of D 24, any, seed 1: \d+ of 24 differ from the CPU's", report.failures[0])


@pytest.mark.slow
def test_the_kernels_compile_by_the_benchmark_s_own_line_and_without_a_gpu_cuda_says_why() -> None:
    *command, _, _ = library_command(nvcc(), "sm_90", Path("libkernel_calls.so"))
    library = Library(kept("libkernel_calls.so", *command))
    if has_gpu():
        pytest.skip("there is a GPU here, and the calls would be real")
    nowhere = dict.fromkeys(("gates", "x", "out", "slot", "weight", "src", "buf", "y", "workspace"), 0)
    for name in ("Route", "Dispatch", "RouteDispatch", "Combine"):
        with pytest.raises(DeviceError, match=r"CUDA says '[^']*(driver|device)[^']*' \(error \d+\)$"):
            library.launch(name, SHAPE, nowhere, 0)


@pytest.mark.parametrize("tokens", [50, 1025])
def test_costs_of_each_kernel(emulator: Emulator, tokens: int) -> None:
    shape = Shape(2, tokens, 8, 2, tokens // 5, 64, "bf16")
    found = {row[0]: row for row in gpu_costs.rows(emulator, shape)}
    routing = ["route", "route_dispatch"] if tokens == 50 else ["sort_tiles", "rank"]
    assert sorted(found) == sorted(["gates", "dispatch", "combine", *routing])
    for _, _, _, per_launch, per_block, *_ in found.values():
        assert 1 <= float(per_launch) <= min(1.1, float(per_block))
