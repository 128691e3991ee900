"""Tests for the GPU benchmark without a GPU.

They run the benchmark on an emulator, compile the kernels, and check what the benchmark reports if something is missing.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import gpu_costs
import pytest
import torch
from command_line import BenchmarkError
from gpu import command, in_torch, timing
from gpu.problem import Problem
from gpu.report import Report
from gpu_emulator import build_emulator, nvcc
from host_device import HostDevice
from kept_build import kept
from on_gpu import checks, sanitizer, watched
from on_gpu.emulator import Emulator, emulator_command
from on_gpu.kernel_cases import kernel_calls
from on_gpu.large_calls import LargeCall
from on_gpu.library import DeviceError, Library, library_command
from on_gpu.memory import GpuMemory, GuardedMemory
from on_gpu.shape import Shape

SHAPE = Shape(2, 50, 8, 2, 9, 16)
MULTI_TILE = Shape(1, 1030, 8, 2, 20, 8)
SMALL_LAYERS = [LargeCall("gates", SHAPE), LargeCall("combine", SHAPE), LargeCall("route_dispatch", MULTI_TILE)]
STREAMS, GRAPHS = "layers on several streams at once", "CUDA graphs, replayed on other inputs"


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
    monkeypatch.setattr(checks, "LARGE_GROUPS", [LargeCall("route", Shape(1, 2049, 4, 1, 256, 0))])
    monkeypatch.setattr(checks, "LAYERS", SMALL_LAYERS)
    monkeypatch.setattr(checks, "GRAPHS", 15)
    monkeypatch.setattr(command, "timed_shapes", lambda: [SHAPE, replace(SHAPE, bpr=False)])
    monkeypatch.setattr(timing, "_COPY_BYTES", 1 << 16)
    monkeypatch.setattr(sanitizer, "find_sanitizer", lambda: None)


def run_on_emulator(folder: Path, *arguments: str) -> tuple[Report, int]:
    """Run the benchmark with the emulator in place of the GPU, too."""
    given = command.parse_arguments(["-o", str(folder), *arguments])
    report = command.run(given, HostDevice(), build_emulator(), lambda: Emulator(build_emulator()))
    return report, report.end()


def test_a_run_writes_its_report(small_plan: None, tmp_path: Path, capsys: Any) -> None:
    report, code = run_on_emulator(tmp_path, "--parts", "exactness", "memcheck", "timing", "--seed", "9")
    assert report.path == tmp_path / "gpu_Emulator-1_exactness_memcheck_timing.md"
    text = report.path.read_text()
    assert text == capsys.readouterr().out
    assert report.failures == []
    counts = dict(re.findall(r"^- (.*): ([\d,]+) checked, 0 wrong$", text, re.MULTILINE))
    assert counts == {"random calls": "30", "large groups": "1", STREAMS: "3", GRAPHS: "18"}
    assert "- the emulator was right: its outputs and the GPU's have the same bits\n" in text
    assert len(report.rows) == 8
    assert report.skipped == ["memcheck: compute-sanitizer isn't installed (it comes with the CUDA toolkit)"]
    assert code == 4


class WrongLibrary(Library):
    """A GPU with four faults.

    Its gates lack the last feature of each token, combine writes one short row too many, dispatch launches its kernel twice,
    and route_dispatch of several tiles overwrites the first gate.
    """

    def call(self, name: str, *arguments: Any) -> None:
        changed = list(arguments)
        if name == "gates" and changed[3] > 1:
            changed[3] -= 1
        if name == "combine" and changed[7] < 64:
            changed[5] += 1
        if name == "dispatch":
            super().call(name, *changed)
        super().call(name, *changed)
        if name == "route_dispatch" and changed[0][1] == MULTI_TILE.tokens:
            no_tokens = changed[2], 1, 4
            super().call("dispatch", 0, 0, *no_tokens, changed[1], changed[-1])


def test_wrong_bits_and_stores_fail_the_run(small_plan: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "Library", WrongLibrary)
    report, code = run_on_emulator(tmp_path, "--parts", "exactness")
    assert code == 1
    assert "- the emulator and the GPU do not agree; see above\n" in report.path.read_text()
    for expected in (
        r"random calls: gates .*, seed 1, call 4: gates differs in \d+ of",
        r"random calls: combine .*, seed 1, call 3: the bytes around a tensor of [\d,]+ bytes were written$",
        f"{STREAMS}: combine .* were written$",
        f"{STREAMS}: route_dispatch .*: gates differs in 1 of",
        rf"{GRAPHS}: gates .*, shuffled: gates differs in \d+ of",
        f"{GRAPHS}: dispatch .*, seed 2, call 2: 2 launches instead of 1$",
        f"{GRAPHS}: route_dispatch .*, shuffled: gates differs in 1 of",
    ):
        assert any(re.match(expected, failure) for failure in report.failures), expected


def test_an_emulator_that_cannot_be_built_fails_only_exactness(small_plan: None, tmp_path: Path) -> None:
    def refuse() -> Emulator:
        raise BenchmarkError("nvcc can't build the kernels: unknown option")

    given = command.parse_arguments(["-o", str(tmp_path), "--parts", "exactness", "timing"])
    report = command.run(given, HostDevice(), build_emulator(), refuse)
    assert report.failures == ["exactness: nvcc can't build the kernels: unknown option"]
    assert len(report.rows) == 8


@pytest.mark.parametrize("package", ["numpy", "torch"])
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    assert command.main([]) == 1
    needed = "the checks on a GPU need numpy and a torch with CUDA"
    assert capsys.readouterr() == ("", f"error: {package} isn't installed; {needed}\n")


def test_a_gpu_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    properties = types.SimpleNamespace(major=7, minor=5, name="Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    assert command.main([]) == 1
    assert capsys.readouterr() == ("", "error: the kernels need compute capability 8.0; Tesla T4 has 7.5\n")


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
    for address in (blocks[0] + 8, blocks[1] - 1, blocks[3]):
        emulator.library.call("copy", address, b"x", 1)
    for block in blocks:
        memory.release(block)
    assert memory.take_faults() == ["the bytes around a tensor of 8 bytes were written"] * 2
    assert memory.take_faults() == []


@pytest.mark.parametrize("bpr", [True, False])
def test_torch_computes_what_the_kernels_compute(bpr: bool, emulator: Emulator) -> None:
    shape = replace(SHAPE, bpr=bpr)
    problem = Problem(HostDevice(), emulator.library, shape)
    draw = torch.Generator().manual_seed(3)
    for name in ("gates", "x", "out"):
        problem.tensors[name].copy_(torch.rand(problem.tensors[name].shape, generator=draw))
    problem.run("route", "dispatch", "combine")
    assert emulator.faults() == []
    found = problem.tensors
    peers = in_torch.peer_tensors(problem)
    routed = in_torch.run("route", shape, peers)
    assert all(torch.equal(tensor, found[name]) for tensor, name in zip(routed, ("slot", "weight", "src"), strict=True))
    assert torch.equal(in_torch.run("dispatch", shape, peers), found["buf"].view(-1, shape.hidden))
    assert torch.equal(in_torch.run("route_dispatch", shape, peers), found["buf"].view(-1, shape.hidden))
    torch.testing.assert_close(in_torch.run("combine", shape, peers), found["y"].view(-1, shape.hidden))


@pytest.mark.slow
def test_the_benchmark_s_own_lines_compile_and_without_a_gpu_cuda_says_why(emulator: Emulator) -> None:
    *command, _, _ = library_command(nvcc(), Path("libkernel_calls.so"), "sm_90")
    path = kept("libkernel_calls.so", *command)
    library = Library(path)
    *command, _, _ = emulator_command(nvcc(), Path("libemulator.so"), 80)
    other = Emulator(kept("libemulator.so", *command))
    for call in kernel_calls(emulator.library, 5, 50):
        emulator.configure(80, processors=call.processors)
        other.configure(80, processors=call.processors)
        wanted = call.run(emulator.library, emulator)
        assert call.differences(call.run(other.library, other), wanted) == []
    assert other.faults() == []
    if has_gpu():
        pytest.skip("there is a GPU here, and the calls would be real")
    without_gpu = r"CUDA says '[^']*(driver|device)[^']*' \(error \d+\)$"
    for call in kernel_calls(library, 1, 5):  # of each op
        with pytest.raises(DeviceError, match=without_gpu):
            call.run(library, GpuMemory(library))
        arguments = (0 if isinstance(word, str) else word for word in call.arguments)
        with pytest.raises(DeviceError, match=f"^{call.op}: {without_gpu}"):
            library.call(call.op, *arguments, 0)
    assert watched.main([str(path), "1", "1"]) == 1


@pytest.mark.parametrize("tokens", [50, 1025])
def test_costs_of_each_kernel(emulator: Emulator, tokens: int) -> None:
    shape = Shape(2, tokens, 8, 2, tokens // 5, 64, "bf16")
    found = {row[0]: row for row in gpu_costs.rows(emulator, shape)}
    routing = ["route", "route_dispatch"] if tokens == 50 else ["sort_tiles", "rank"]
    assert sorted(found) == sorted(["gates", "dispatch", "combine", *routing])
    for _, _, _, per_launch, per_block, *_ in found.values():
        assert 1 <= float(per_launch) <= min(1.1, float(per_block))
