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
import torch
from gpu import command, in_torch, timing
from gpu.problem import Problem
from gpu.report import Report
from gpu_emulator import build_emulator, nvcc
from host_device import HostDevice
from kept_build import kept
from on_gpu import checks, sanitizer, watched
from on_gpu.emulator import Emulator, emulator_command
from on_gpu.kernel_cases import kernel_calls
from on_gpu.library import DeviceError, Library, library_command
from on_gpu.memory import GpuMemory, GuardedMemory
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
    """Reduce the benchmark to a few calls and shapes, and omit compute-sanitizer."""
    monkeypatch.setattr(command, "WHOLE", command.WHOLE | {"random_calls": 30, "repeats": 2})
    monkeypatch.setattr(checks, "LARGE", [(1, 2049, 4, 1, 0, None)])
    monkeypatch.setattr(checks, "STREAMS", 5)
    monkeypatch.setattr(checks, "GRAPHS", 10)
    monkeypatch.setattr(command, "timed_shapes", lambda: [SHAPE, replace(SHAPE, bpr=False)])
    monkeypatch.setattr(timing, "_COPY_BYTES", 1 << 16)
    monkeypatch.setattr(sanitizer, "find_sanitizer", lambda: None)


def run_on_emulator(folder: Path, *arguments: str) -> tuple[Report, int]:
    """Run the benchmark with the emulator in place of the GPU, too."""
    given = command.parse_arguments(["-o", str(folder), *arguments])
    report = command.run(given, HostDevice(), build_emulator(), Emulator(build_emulator()))
    return report, report.end()


def test_a_run_writes_its_report(small_plan: None, tmp_path: Path, capsys: Any) -> None:
    report, code = run_on_emulator(tmp_path, "--parts", "exactness", "memcheck", "timing", "--seed", "9")
    assert report.path == tmp_path / "gpu_Emulator-1_exactness_memcheck_timing.md"
    text = report.path.read_text()
    assert text == capsys.readouterr().out
    assert report.failures == []
    counts = dict(re.findall(r"^- (.*): ([\d,]+) checked, 0 wrong$", text, re.MULTILINE))
    graphs = "CUDA graphs replayed on other inputs"
    assert counts == {"random calls": "30", "large calls": "1", "several streams at once": "5", graphs: "40"}
    assert "- the emulator was right: the GPU gives every bit that it gives\n" in text
    assert len(report.rows) == 8
    assert report.skipped == ["memcheck: compute-sanitizer isn't installed (it comes with the CUDA toolkit)"]
    assert code == 4


class WrongLibrary(Library):
    """A GPU whose gates lack the last feature of each token, and whose combine writes one row too many."""

    def call(self, name: str, *arguments: Any) -> None:
        changed = list(arguments)
        if name == "gates":
            changed[3] = max(1, changed[3] - 1)
        if name == "combine":
            changed[5] += 1
        super().call(name, *changed)


def test_wrong_bits_and_stores_fail_the_run(small_plan: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "Library", WrongLibrary)
    report, code = run_on_emulator(tmp_path, "--parts", "exactness")
    assert code == 1
    assert "- the emulator was wrong, or the GPU or nvcc's machine code is" in report.path.read_text()
    assert any(re.match(r"random calls: call 5, gates .*: gates differs in \d+ of", failure) for failure in report.failures)
    assert any(re.search(r"combine .* were written past their ends", failure) for failure in report.failures)


def test_calls_under_a_tool(emulator: Emulator, tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text('#!/bin/sh\nwhile [ ${1#--} != $1 ]; do shift 2; done; exec "$@"\n')
    tool.chmod(0o755)
    assert sanitizer.run_tool(tool, "memcheck", build_emulator(), 10, 3) == ("compute-sanitizer memcheck", 10, ())
    tool.write_text("#!/bin/sh\necho Invalid read; exit 77\n")
    assert sanitizer.run_tool(tool, "memcheck", build_emulator(), 10, 3).failures == ("exit code 77: Invalid read",)


def test_what_a_gpu_s_memory_finds(emulator: Emulator) -> None:
    memory = GuardedMemory(emulator.library)
    blocks = [memory.allocate(size, misalignment) for size, misalignment in ((8, 0), (8, 4), (0, 0), (16, 2))]
    memory.seal(blocks[3])
    for address in (blocks[0] + 8, blocks[1] - 1, blocks[3]):
        emulator.library.call("copy", address, b"x", 1)
    for block in blocks:
        memory.release(block)
    beyond = "8 bytes of memory were written past their ends"
    assert memory.take_faults() == [beyond, beyond, "an input of 16 bytes was written"]
    assert memory.take_faults() == []


def test_torch_computes_what_the_kernels_compute(emulator: Emulator) -> None:
    device = HostDevice()
    problem = Problem(device, emulator.library, SHAPE)
    draw = torch.Generator().manual_seed(3)
    for name in ("gates", "x", "out"):
        problem.tensors[name].copy_(torch.rand(problem.tensors[name].shape, generator=draw))
    problem.run("route", "dispatch", "combine")
    assert emulator.faults() == []
    found = problem.tensors
    peers = in_torch.peer_tensors(problem)
    routed = in_torch.run("route", SHAPE, peers)
    assert all(torch.equal(tensor, found[name]) for tensor, name in zip(routed, ("slot", "weight", "src"), strict=True))
    assert torch.equal(in_torch.run("dispatch", SHAPE, peers), found["buf"].view(-1, SHAPE.hidden))
    assert torch.equal(in_torch.run("route_dispatch", SHAPE, peers), found["buf"].view(-1, SHAPE.hidden))
    torch.testing.assert_close(in_torch.run("combine", SHAPE, peers), found["y"].view(-1, SHAPE.hidden))


@pytest.mark.slow
def test_the_benchmark_s_own_lines_compile_and_without_a_gpu_cuda_says_why(emulator: Emulator) -> None:
    *command, _, _ = library_command(nvcc(), Path("libkernel_calls.so"), "sm_90")
    path = kept("libkernel_calls.so", *command)
    library = Library(path)
    *command, _, _ = emulator_command(nvcc(), Path("libemulator.so"))
    other = Emulator(kept("libemulator.so", *command))
    for call in kernel_calls(emulator.library, 5, 50):
        emulator.configure(100, processors=call.processors)
        other.configure(100, processors=call.processors)
        wanted = call.run(emulator.library, emulator)
        assert call.differences(call.run(other.library, other), wanted) == []
    assert other.faults() == []
    if has_gpu():
        pytest.skip("there is a GPU here, and the calls would be real")
    call = next(kernel_calls(library, 1, 1))
    with pytest.raises(DeviceError, match=r"CUDA says '[^']*(driver|device)[^']*' \(error \d+\)$"):
        call.run(library, GpuMemory(library))
    assert watched.main([str(path), "1", "1"]) == 1


@pytest.mark.parametrize("tokens", [50, 1025])
def test_costs_of_each_kernel(emulator: Emulator, tokens: int) -> None:
    shape = Shape(2, tokens, 8, 2, tokens // 5, 64, "bf16")
    found = {row[0]: row for row in gpu_costs.rows(emulator, shape)}
    routing = ["route", "route_dispatch"] if tokens == 50 else ["sort_tiles", "rank"]
    assert sorted(found) == sorted(["gates", "dispatch", "combine", *routing])
    for _, _, _, per_launch, per_block, *_ in found.values():
        assert 1 <= float(per_launch) <= min(1.1, float(per_block))
