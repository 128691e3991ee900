"""The GPU benchmark where there is no GPU: its formulas, cases, reports and refusals, and its checks of a stand-in.

The stand-in has the kernels' interface on the CPU's memory, and can be told to be wrong. Neither the kernels nor
`gpu/device.py` run here.
"""

from __future__ import annotations

import ctypes
import doctest
import functools
import importlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from vmoe_export.ops import reference

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
FAULTS = ("slot", "weight", "src", "buf", "y", "fused", "order", "past", "unsteady")


@pytest.fixture(scope="module", autouse=True)
def _benchmarks_on_path() -> Iterator[None]:
    """The folder is on the path, as it is when the command runs."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield
    finally:
        sys.path.remove(str(BENCHMARKS))


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
    from cpu.errors import BenchmarkError
    from gpu.library import find_nvcc

    try:
        return find_nvcc()
    except BenchmarkError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The stand-in's library, and the checker on top of the stand-in."""
    folder = tmp_path_factory.mktemp("stand-in")
    plugins, parts = ROOT / "plugins", BENCHMARKS / "gpu"
    # As nvcc's host compiler it knows where CUDA's headers are; the stand-in takes the CUDA runtime's place.
    flags = ["-std=c++17", "-O1", "-cudart", "none", "-Xcompiler=-ffp-contract=off,-Wall,-Wextra,-Werror,-pthread"]
    flags += [f"-I{path}" for path in (plugins, parts)]
    sources = [Path(__file__).parent / "cpp" / "gpu_stand_in.cc", plugins / "cuda" / "route_plan.cc"]
    sources += [plugins / "core" / name for name in ("routing.cc", "dispatch.cc", "combine.cc", "workspace.cc")]
    made = SimpleNamespace(library=folder / "libstand_in.so", checker=folder / "kernel_check")
    for target, source, options in (
        (made.library, parts / "device_calls.cc", ["-Xcompiler=-fPIC", "-shared"]),
        (made.checker, parts / "kernel_check.cc", []),
    ):
        done = subprocess.run(
            [nvcc(), *flags, *options, *sources, source, "-o", target], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    return made


@pytest.fixture
def kernels(built: SimpleNamespace) -> Any:
    from gpu.library import Library

    return Library(built.library)


# What the kernels must give


def test_exact_results_are_the_reference_s() -> None:
    from gpu import exact
    from gpu.cases import make_inputs, named_cases, random_cases

    compared = 0
    for case in itertools.chain(named_cases(1), random_cases(2, 60)):
        shape = case.shape
        if shape.all_tokens * shape.experts > 200_000:
            continue
        inputs = make_inputs(case)
        gates = exact.to_float32(inputs.gates, shape.gate_type)
        got = exact.route(inputs.gates, shape.gate_type, shape.capacity, shape.choices, shape.bpr)
        slot, weight, src, _ = reference.route(gates, shape.capacity, shape.choices, shape.bpr)
        np.testing.assert_array_equal(got[0], slot, str(case))
        np.testing.assert_array_equal(got[2], src, str(case))
        assert exact.same_bits(exact.to_float32(got[1], shape.gate_type), weight).all(), case
        assert exact.same_bits(exact.dispatch(inputs.x, src), reference.dispatch(inputs.x, src)).all(), case
        compared += 1
    assert compared > 150


@pytest.mark.parametrize("type", ["fp32", "fp16", "bf16"])
def test_combine_sums_in_float32_and_rounds_once(type: Any) -> None:
    from gpu import exact
    from gpu.cases import Case, make_inputs
    from gpu.shapes import Shape

    inputs = make_inputs(Case(Shape(2, 40, 4, 3, 20, 17, type), "random", 5))
    slot, weight, _ = exact.route(inputs.gates, "fp32", 20, 3, True)
    wide = exact.to_float32(inputs.out, type)
    with np.errstate(over="ignore"):
        wanted = exact.from_float32(reference.combine(wide, slot, weight), type)
    got = exact.combine(inputs.out, type, slot, weight, "fp32")
    np.testing.assert_array_equal(exact.to_float32(got, type), exact.to_float32(wanted, type))


def test_first_product_is_taken_as_it_is() -> None:
    from gpu import exact

    out = np.array([[[-0.0]], [[1.0]]], np.float32)
    slot, weight = np.array([[[0], [-1]]], np.int32), np.ones((1, 2, 1), np.float32)
    assert np.signbit(exact.combine(out, "fp32", slot, weight, "fp32")).reshape(-1).tolist() == [True, False]


def test_bits_of_bfloat16_are_rounded_as_by_ml_dtypes() -> None:
    from gpu import exact

    random = np.random.default_rng(0)
    values = random.integers(0, 2**32, 100_000, np.uint32).view(np.float32)
    with np.errstate(invalid="ignore"):
        wanted = values.astype(ml_dtypes.bfloat16)
    got = exact.from_float32(values, "bf16")
    numbers = ~np.isnan(values)
    np.testing.assert_array_equal(got[numbers], wanted.view(np.uint16)[numbers])
    assert np.isnan(exact.to_float32(got, "bf16")[~numbers]).all()
    np.testing.assert_array_equal(exact.to_float32(got, "bf16")[numbers], wanted.astype(np.float32)[numbers])


def test_cases_reach_every_corner() -> None:
    from gpu.cases import GATE_KINDS, make_inputs, named_cases, random_cases
    from gpu.floors import kernel_launches
    from gpu.shapes import TYPES

    cases = list(named_cases(1))
    shapes = [case.shape for case in cases]
    assert max(s.tokens for s in shapes) == 65_536
    assert max(s.experts for s in shapes) == 256
    assert max(s.choices for s in shapes) == 8
    assert max(s.groups for s in shapes) > 65_535  # of a grid's second dimension
    wanted = set(itertools.product(GATE_KINDS, TYPES, (True, False), (True, False)))
    assert {(c.kind, c.shape.gate_type, c.shape.bpr, c.shape.capacity == 1) for c in cases} >= wanted
    assert {kernel_launches(s)["Route"] for s in shapes} == {1, 2}
    assert any(c.offset for c in cases)
    assert any(s.row_bytes % 16 for s in shapes)
    nan = next(c for c in cases if c.kind == "nan")
    assert np.isnan(make_inputs(nan).gates).any()
    assert list(random_cases(3, 20)) == list(random_cases(3, 20)) != list(random_cases(4, 20))


# What the checks see


def test_stand_in_passes_every_check(kernels: Any) -> None:
    from gpu import checks
    from gpu.cases import named_cases, random_cases
    from gpu.command import _LAUNCH_SHAPES

    device = HostDevice()
    small = [case for case in named_cases(1) if case.shape.all_tokens * case.shape.experts < 100_000]
    made = [
        checks.check_cases(device, kernels, "named", small),
        checks.check_cases(device, kernels, "random", random_cases(1, 20)),
        checks.check_streams(device, kernels, 1),
        checks.check_graphs(device, kernels, 1),
        checks.check_launches(device, kernels, _LAUNCH_SHAPES[:4]),
    ]
    assert [check.failures for check in made] == [()] * 5
    assert made[0].count == len(small) > 100


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_seen(kernels: Any, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    from gpu import checks
    from gpu.cases import Case
    from gpu.shapes import Shape

    monkeypatch.setenv("VMOE_STAND_IN_FAULT", fault)
    case = Case(Shape(2, 50, 8, 2, 5, 6), "random", 1)
    failures = checks.check_case(HostDevice(), kernels, case)
    wrong = {"fused": "RouteDispatch: slot", "order": "slot", "past": "written past its ends", "unsteady": "y differs"}
    assert any(wrong.get(fault, f"{fault} differs") in failure for failure in failures), failures
    assert all(failure.startswith("2 x 50, E 8, K 2, c 5, D 6, fp32, random gates, seed 1: ") for failure in failures)
    if fault in ("slot", "y"):
        assert checks.check_graphs(HostDevice(), kernels, 1).failures
        assert checks.check_streams(HostDevice(), kernels, 1).failures


def test_launches_are_counted(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu import checks
    from gpu.shapes import Shape

    monkeypatch.setenv("VMOE_STAND_IN_FAULT", "launches")
    failures = checks.check_launches(HostDevice(), kernels, [Shape(1, 3000, 8, 1, 5, 6)]).failures
    assert [re.sub(" at .* is", ":", failure) for failure in failures][:2] == [
        "Route: 3 launches instead of 2",
        "Dispatch: 2 launches instead of 1",
    ]


def test_cuda_s_own_words_are_told(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu.library import DeviceError
    from gpu.shapes import Shape

    monkeypatch.setenv("VMOE_STAND_IN_FAULT", "refuse")
    with pytest.raises(DeviceError, match=r"route: CUDA says 'stand-in error' \(error 700\)"):
        kernels.route(Shape(1, 1, 1, 1, 1), 0, 0, 0, 0, 0, 0)
    assert kernels.refusal(Shape(1, 70_000, 8, 1, 1)) == "a group must have at most 65536 tokens"
    assert kernels.refusal(Shape(1, 197, 8, 1, 8)) is None


# What is written past the ends is for compute-sanitizer to see.
@pytest.mark.parametrize("fault", ["", *(fault for fault in FAULTS if fault != "past"), "refuse"])
def test_checker_without_torch_sees_faults_too(built: SimpleNamespace, fault: str) -> None:
    from gpu.sanitizer import run_checker

    os.environ["VMOE_STAND_IN_FAULT"] = fault
    try:
        check = run_checker([str(built.checker), "30", "7"], "checker", 30)
    finally:
        del os.environ["VMOE_STAND_IN_FAULT"]
    if not fault:
        assert check.failures == ()
        return
    (failure,) = check.failures
    assert failure.startswith("exit code 3: " if fault == "refuse" else "exit code 1: ")
    assert ("CUDA says" if fault == "refuse" else "30 layers, seed 7: ") in failure


def test_sanitizer_is_run_and_its_findings_told(built: SimpleNamespace, tmp_path: Path) -> None:
    from gpu.sanitizer import TOOLS, run_sanitizer

    program = tmp_path / "compute-sanitizer"
    program.write_text('#!/bin/sh\necho "$@" >> "$0.log"\ncase "$*" in *racecheck*) echo "RACE"; exit 77;; esac\n')
    program.chmod(0o755)
    made = run_sanitizer(program, built.checker, 3)
    lines = Path(f"{program}.log").read_text().splitlines()
    assert [line.split()[1] for line in lines] == list(TOOLS)
    assert all(line.endswith(f"{built.checker} 40 3") for line in lines)
    assert [check.failures for check in made] == [(), (), ("exit code 77: RACE",), ()]


# The real library, as far as it goes without a GPU


@pytest.fixture(scope="module")
def real_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as the benchmark builds it."""
    from gpu.library import build, library_command

    return build(library_command(nvcc(), "sm_90", tmp_path_factory.mktemp("real") / "libdevice_calls.so"))


def test_real_library_compiles_and_has_its_symbols(real_library: Path) -> None:
    from gpu.library import FUNCTIONS

    listed = subprocess.run(["nm", "-D", "--defined-only", real_library], capture_output=True, text=True, check=True)
    assert set(FUNCTIONS) <= {line.split()[-1] for line in listed.stdout.splitlines()}
    needed = subprocess.run(["readelf", "-d", real_library], capture_output=True, text=True, check=True).stdout
    assert "cudart" not in needed
    header = (BENCHMARKS / "gpu" / "device_calls.h").read_text()
    assert set(re.findall(r"\b(vmoe_gpu_\w+)\(", header)) == set(FUNCTIONS)


def test_real_library_without_a_gpu_gives_cuda_s_words(real_library: Path) -> None:
    from gpu.library import DeviceError, Library
    from gpu.shapes import Shape

    if _has_gpu():
        pytest.skip("there is a GPU here, and the call would be real")
    library, shape = Library(real_library), Shape(1, 197, 8, 2, 30)
    for name, call in {
        "route": lambda: library.route(shape, 0, 0, 0, 0, 0, 0),
        "dispatch": lambda: library.dispatch(shape, 0, 0, 0, 0),
        "route_dispatch": lambda: library.route_dispatch(shape, 0, 0, 0, 0, 0, 0, 0),
        "combine": lambda: library.combine(shape, 0, 0, 0, 0, 0),
        "empty": lambda: library.empty(0),
        "begin_count": lambda: library.begin_count(0),
    }.items():
        with pytest.raises(DeviceError, match=rf"^{name}: CUDA says '[^']*(driver|device)[^']*' \(error \d+\)$"):
            call()
    with pytest.raises(DeviceError, match="invalid argument"):
        library.route(replace(shape, choices=9), 0, 0, 0, 0, 0, 0)


def _has_gpu() -> bool:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int()
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def test_real_checker_compiles(tmp_path: Path) -> None:
    from gpu.library import build, checker_command

    program = build(checker_command(nvcc(), "sm_90", tmp_path / "kernel_check"))
    if _has_gpu():
        pytest.skip("there is a GPU here, and gpu.py runs the checker on it")
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("kernel_check: looking for a GPU: CUDA says '")


def test_kernels_are_compiled_from_the_same_sources_and_alike_everywhere() -> None:
    from gpu.library import checker_command, kernel_sources, library_command

    cmake = (ROOT / "plugins" / "cuda" / "CMakeLists.txt").read_text()
    listed = re.search(r"add_library\(vmoe_cuda STATIC([^)]*)\)", cmake)
    assert listed is not None
    assert {path.name for path in kernel_sources()} == set(listed[1].split())
    for command in (library_command, checker_command):
        line = command(Path("nvcc"), "sm_86", Path("target"))
        assert line[-2:] == ["-o", "target"]
        assert "-arch=sm_86" in line
        assert all(flag in line for flag in re.findall(r"CUDA>:(-[\w=-]+)>", cmake))
        assert "-std=c++17" in line


def test_what_nvcc_says_is_told(tmp_path: Path) -> None:
    from cpu.errors import BenchmarkError
    from gpu.library import build, library_command

    with pytest.raises(BenchmarkError, match=r"^nvcc can't build the kernels: .*sm_1"):
        build(library_command(nvcc(), "sm_1", tmp_path / "library.so"))


# Floors and the bar


def test_bytes_are_those_of_the_tensors(kernels: Any) -> None:
    from gpu.cases import Case, make_inputs
    from gpu.checks import expected_of
    from gpu.floors import count_kept, kernel_bytes
    from gpu.shapes import Shape

    case = Case(Shape(3, 50, 8, 2, 9, 12, "fp16", "fp32"), "random", 3)
    inputs = make_inputs(case)
    wanted = expected_of(case, inputs)
    kept = count_kept(wanted.slot)
    read = np.unique(wanted.src[wanted.src >= 0]).size * 12 * 2
    routed = inputs.gates.nbytes + wanted.slot.nbytes + wanted.weight.nbytes
    assert kept.pairs == (wanted.src >= 0).sum()
    assert kernel_bytes(case.shape, kept) == {
        "Route": routed + wanted.src.nbytes,
        "Dispatch": wanted.src.nbytes + read + wanted.buf.nbytes,
        "RouteDispatch": routed + read + wanted.buf.nbytes,
        "Combine": wanted.slot.nbytes + wanted.weight.nbytes + kept.pairs * 24 + wanted.y.nbytes,
    }


def test_balanced_routing_keeps_what_a_balanced_router_keeps() -> None:
    from gpu import exact
    from gpu.floors import balanced, count_kept
    from gpu.shapes import Shape

    for capacity in (3, 10, 25, 26, 60):
        shape = Shape(2, 100, 4, 2, capacity)
        gates = np.zeros((2, 100, 4), np.float32)
        token = np.arange(100)
        gates[:, token, token % 4], gates[:, token, (token + 1) % 4] = 2, 1
        slot, _, _ = exact.route(gates, "fp32", capacity, 2, False)
        assert count_kept(slot) == balanced(shape)


def test_bar_covers_the_sizes_it_must() -> None:
    from gpu.shapes import bar_shapes, sweep_shapes

    shapes = bar_shapes()
    assert len(shapes) == len(set(shapes)) == 4 * 2 * 2 * 2 * 3
    assert {(s.groups, s.tokens) for s in shapes} == {(1, 197), (8, 197), (64, 197), (64, 577)}
    assert {s.capacity for s in shapes if (s.tokens, s.experts, s.choices) == (197, 8, 2)} == {15, 52}
    assert {s.hidden for s in shapes} == {768}
    swept = sweep_shapes()
    assert len(swept) == len(set(swept))
    for name in ("tokens", "experts", "choices", "capacity", "hidden", "bpr"):
        assert len({getattr(shape, name) for shape in swept}) > 1, name
    assert max(s.tokens for s in swept) == 65_536


def test_floors_of_an_h100_come_from_its_data_sheet() -> None:
    from gpu.floors import memory_rate

    assert memory_rate("NVIDIA H100 80GB HBM3", 2.9e12) == 3.35e12
    assert memory_rate("NVIDIA A100-SXM4-80GB", 1.7e12) == 1.7e12


def test_document_holds_the_tables_of_the_code() -> None:
    from gpu.document import BEGIN, END, floors_text

    text = (BENCHMARKS / "GPU.md").read_text()
    written = text[text.index(BEGIN) : text.index(END) + len(END) + 1]
    assert written == floors_text(), "run python benchmarks/gpu.py --floors and put what it prints into GPU.md"
    assert written.count("\n| RouteDispatch |") == 4 * 8


# Peers and timing


@pytest.mark.parametrize(("choices", "capacity", "bpr"), [(1, 20, True), (2, 20, True), (2, 70, True), (3, 11, False)])
def test_peers_do_the_same_work(choices: int, capacity: int, bpr: bool) -> None:
    from gpu import exact, peers
    from gpu.cases import make_gates
    from gpu.shapes import Shape

    random = np.random.default_rng(3)
    shape = Shape(3, 197, 8, choices, capacity, 16, bpr=bpr)
    gates = make_gates("random", 3, 197, 8, random)
    slot, weight, src = exact.route(gates, "fp32", capacity, choices, bpr)
    got = peers.route(torch.from_numpy(gates), shape)
    for ours, theirs in zip((slot, weight, src), got, strict=True):
        np.testing.assert_array_equal(theirs.numpy(), ours)
        assert theirs.numpy().dtype == ours.dtype
    x = random.standard_normal((3, 197, 16), np.float32)
    buf = exact.dispatch(x, src)
    rows = torch.from_numpy(x.reshape(-1, 16))
    np.testing.assert_array_equal(peers.dispatch(peers.padded(rows), got[2]).numpy(), buf.reshape(-1, 16))
    y = exact.combine(buf, "fp32", slot, weight, "fp32").reshape(-1, 16)
    out = torch.from_numpy(buf.reshape(-1, 16))
    np.testing.assert_allclose(peers.combine_add(out, got[0], got[1]).numpy(), y, atol=1e-6)
    np.testing.assert_allclose(peers.combine_sum(peers.padded(out), got[0], got[1]).numpy(), y, atol=1e-6)


def test_peers_wait_for_nothing() -> None:
    """What must look at values, and so wait for the card, would break torch's graph of it."""
    from gpu import peers
    from gpu.shapes import Shape

    shape = Shape(2, 30, 4, 2, 9, 8)
    gates, out = torch.rand(2, 30, 4), torch.rand(shape.places, 8)
    whole = functools.partial(torch.compile, backend="eager", fullgraph=True, dynamic=False)
    slot, weight, src = whole(lambda gates: peers.route(gates, shape))(gates)
    whole(peers.dispatch)(torch.rand(61, 8), src)
    whole(peers.combine_add)(out, slot, weight)
    whole(peers.combine_sum)(peers.padded(out), slot, weight)


def test_a_row_says_what_was_timed(kernels: Any) -> None:
    from gpu.floors import KERNELS
    from gpu.rows import Rates, measure_shape
    from gpu.shapes import Shape

    rates = Rates(copy=2e9, floor=1e9, launch=1e-5)
    shape = Shape(2, 50, 8, 2, 9, 16, "bf16")
    rows = measure_shape(HostDevice(), kernels, shape, rates, 3, bar=True, with_peers=True)
    assert [row["kernel"] for row in rows] == list(KERNELS)
    for row in rows:
        assert row["floor"] == pytest.approx(row["bytes"] / 1e9)
        assert row["bar"] == pytest.approx(1.3 * row["floor"] + row["launches"] * 1e-5)
        assert row["passes"] is (row["time"]["median"] <= row["bar"])
        assert row["bytes_per_second"] == pytest.approx(row["bytes"] / row["time"]["median"])
        assert row["of_copy"] == pytest.approx(row["bytes_per_second"] / 2e9)
        assert row["time"]["repeats"] == 3
        assert row["buffer_sets"] >= 2
        assert row["kept_pairs"] <= shape.pairs
        assert set(row["peers"]) == ({"torch", "torch, index_add"} if row["kernel"] == "Combine" else {"torch"})
    assert (rows[0]["shape"]["gate_type"], rows[0]["shape"]["hidden"]) == ("bf16", 0)
    assert (rows[1]["shape"]["gate_type"], rows[1]["shape"]["hidden"]) == ("fp32", 16)


def test_contenders_take_turns_and_are_timed_a_call() -> None:
    from gpu.timing import capture, in_turns

    called: list[str] = []

    class Clock(HostDevice):
        def milliseconds(self, work: Callable[[], None]) -> float:
            before = len(called)
            work()
            return float(len(called) - before)  # a millisecond a call

    device = Clock()
    counts = {"a": 3, "b": 40}
    graphs = {name: capture(device, [functools.partial(called.append, name)] * count) for name, count in counts.items()}
    times = in_turns(device, graphs, 5)
    assert all(time.median == time.lower == time.upper == pytest.approx(1e-3) for time in times.values())
    turns = [name for name, _ in itertools.groupby(called)]
    assert 2 * 8 - 4 <= len(turns) <= 2 * 9
    assert called.count("a") == 18 * 9  # at least 16 calls a graph; once to warm up, 3 rounds, 5 that are timed


def test_a_peer_that_does_not_compile_is_a_note(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu import rows
    from gpu.shapes import Shape

    def refuse(*_: object) -> None:
        raise RuntimeError("no compiler here\nsecond line")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: refuse)
    shape = Shape(1, 20, 4, 1, 5, 8)
    monkeypatch.setattr(rows, "COMPILED_SHAPES", (shape,))
    made = rows.measure_shape(HostDevice(), kernels, shape, rows.Rates(1e9, 1e9, 1e-6), 1, bar=False, with_peers=True)
    assert [row["notes"] for row in made] == [
        [f"torch.compile, {row['kernel']}: RuntimeError: no compiler here"] for row in made
    ]
    assert all("torch" in row["peers"] and "torch.compile" not in row["peers"] for row in made)
    assert all((row["bar"], row["passes"]) == (None, None) for row in made)


# A whole run on the stand-in


@pytest.fixture
def small_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few cases and shapes, and no models."""
    from gpu import command, sanitizer, timing
    from gpu.cases import Case
    from gpu.shapes import Shape

    shape = Shape(2, 50, 8, 2, 9, 16)
    monkeypatch.setattr(command, "named_cases", lambda seed: [Case(shape, "tied", seed)])
    monkeypatch.setattr(command, "_RANDOM_CASES", {False: 3, True: 2})
    monkeypatch.setattr(command, "_REPEATS", {False: 2, True: 1})
    monkeypatch.setattr(command, "_LAUNCH_SHAPES", command._LAUNCH_SHAPES[:3])
    monkeypatch.setattr(command, "bar_shapes", lambda: [shape])
    monkeypatch.setattr(command, "sweep_shapes", lambda: [replace(shape, bpr=False)])
    monkeypatch.setattr(command, "prepare_bundles", lambda *_: [])
    monkeypatch.setattr(timing, "_COPY_BYTES", 1 << 16)
    monkeypatch.setattr(sanitizer, "find_sanitizer", lambda: None)


def run_on_stand_in(built: SimpleNamespace, folder: Path, *arguments: str) -> tuple[dict[str, Any], int, str]:
    from gpu import command
    from gpu.library import Library

    given = command.parse_arguments(["-o", str(folder), *arguments])
    said: list[str] = []
    report = command.run(given, HostDevice(), Library(built.library), built.checker, said.append)
    return report, command.exit_code(report), "\n".join(said)


def test_a_run_writes_its_report(built: SimpleNamespace, small_plan: None, tmp_path: Path, capsys: Any) -> None:
    from gpu import command
    from gpu.report import failures_of

    report, code, said = run_on_stand_in(built, tmp_path, "--parts", "exactness", "sanitizer", "timing", "--seed", "9")
    assert json.loads((tmp_path / "gpu_Stand-in-1.json").read_text()) == json.loads(json.dumps(report))
    text = (tmp_path / "gpu_Stand-in-1.md").read_text()
    assert failures_of(report) == []
    assert [check["name"] for check in report["checks"]][:2] == ["named cases", "random cases"]
    assert len(report["rows"]) == 8
    assert sum(row["bar"] is not None for row in report["rows"]) == 4
    assert "seed 9" in said
    assert report["skipped"] == {
        "frameworks": "not asked for",
        "sanitizer": "compute-sanitizer isn't installed (it comes with the CUDA toolkit)",
    }
    assert "- sanitizer: compute-sanitizer isn't installed" in text
    for row in report["rows"]:
        assert f"| {row['time']['median'] * 1e6:.2f} |" in text
    missed = any(row["passes"] is False for row in report["rows"])
    assert code == (3 if missed else 4)
    command.tell(report, (tmp_path / "gpu_Stand-in-1.json", tmp_path / "gpu_Stand-in-1.md"))
    told = capsys.readouterr()
    assert "skipped: sanitizer: compute-sanitizer isn't installed" in told.err
    assert "checks, 0 failures" in told.out


def test_exit_code_tells_what_is_wrong(built: SimpleNamespace, small_plan: None, tmp_path: Path) -> None:
    report, _, _ = run_on_stand_in(built, tmp_path, "--parts", "exactness", "timing", "--quick")
    for row in report["rows"]:
        row["passes"] = None if row["bar"] is None else True
    from gpu import command
    from gpu.report import missed_bars

    assert command.exit_code(report) == 0
    report["skipped"]["sanitizer"] = "not asked for"
    assert command.exit_code(report) == 0
    report["rows"][0]["passes"] = False
    assert command.exit_code(report) == 3
    assert re.match(r"Route at 2 x 50, E 8, K 2, c 9, fp32 took [\d.]+ µs; the bar is [\d.]+ µs$", missed_bars(report)[0])


def test_wrong_bits_fail_the_run(
    built: SimpleNamespace, small_plan: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VMOE_STAND_IN_FAULT", "buf")
    report, code, _ = run_on_stand_in(built, tmp_path, "--parts", "exactness")
    assert code == 1
    assert report["checks"][0]["failures"][0].startswith(
        "2 x 50, E 8, K 2, c 9, D 16, fp32, tied gates, seed 1: buf differs"
    )
    assert "## Not as it must be" in (tmp_path / "gpu_Stand-in-1.md").read_text()


def test_an_error_of_the_card_is_a_failure(
    built: SimpleNamespace, small_plan: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VMOE_STAND_IN_FAULT", "refuse")
    report, code, _ = run_on_stand_in(built, tmp_path, "--parts", "exactness", "timing")
    assert code == 1
    assert all(check["failures"] for check in report["checks"])
    words = "route: CUDA says 'stand-in error' (error 700)"
    assert report["checks"][0]["failures"] == (f"2 x 50, E 8, K 2, c 9, D 16, fp32, tied gates, seed 1: {words}",)
    assert report["checks"][1]["count"] == 1  # nothing is run after it
    assert report["checks"][-1]["name"] == "timing, 2 x 50, E 8, K 2, c 9, D 16, fp32"


# Whole models


def test_engines_that_agree_pass_and_others_do_not(mnist_image_bundle: Path) -> None:
    from gpu.frameworks import BATCHES, ModelBundle, compare, throughput

    from vmoe_runtime import Engine

    bundle = ModelBundle(mnist_image_bundle, "fp32", timed=True)
    with Engine.load(mnist_image_bundle, "c0.3-k1", "onnxruntime") as engine:
        assert compare("same", engine, bundle, "c0.3-k1").failures == ()
        other = compare("other", engine, bundle, "c1.05-k1")
        points = throughput("ORT", "CPU", engine, bundle, "c0.3-k1", 2)
    assert "are routed as on the CPU" in other.failures[0]
    assert [point["batch"] for point in points] == list(BATCHES)
    assert all(point["images_per_second"] == pytest.approx(point["batch"] / point["time"]["median"]) for point in points)


def test_models_are_exported_in_every_precision(tmp_path: Path) -> None:
    from gpu.frameworks import prepare_bundles

    from vmoe_runtime.bundle import Bundle

    bundles = prepare_bundles(tmp_path, "tiny", lambda _: None)
    assert [(bundle.name, bundle.timed) for bundle in bundles] == [
        ("mnist fp32", False),
        ("tiny fp32", True),
        ("tiny fp16", True),
        ("tiny bf16", True),
    ]
    for bundle in bundles:
        graphs = Bundle.open(bundle.path).manifest.tensorrt
        assert graphs is not None
        assert graphs.precision == bundle.precision
        assert {"c0.3-k1", "c1.05-k1"} <= set(graphs.graphs)


def test_frameworks_that_are_missing_are_named(mnist_image_bundle: Path, tmp_path: Path) -> None:
    from gpu.frameworks import ModelBundle, run_frameworks

    if _has_gpu():
        pytest.skip("there is a GPU here, and gpu.py runs them on it")
    before = os.environ.get("VMOE_CACHE_DIR")
    bundle = ModelBundle(mnist_image_bundle, "fp32", timed=False)
    parts = list(run_frameworks([bundle], tmp_path, 1, lambda _: None))
    assert [part.name for part in parts] == [
        "ONNX Runtime, CUDA",
        "ONNX Runtime, CUDA, standard ops instead of the op library",
        "ONNX Runtime, TensorRT",
        "TensorRT",
    ]
    assert parts[0].skipped and parts[1].skipped
    # The bundle has no graphs for TensorRT, which is said before what the machine lacks.
    assert all("export it again with --tensorrt" in part.checks[0].failures[0] for part in parts[2:])
    assert os.environ.get("VMOE_CACHE_DIR") == before


# The command


def run_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, BENCHMARKS / "gpu.py", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_a_gpu_one_sentence_says_what_is_missing() -> None:
    if _has_gpu():
        pytest.skip("there is a GPU here")
    done = run_command()
    assert done.returncode == 1
    assert re.fullmatch(r"error: (this torch \(.*\) is built without CUDA|torch finds no NVIDIA GPU).*\n", done.stderr)
    assert done.stdout == ""


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_make_runs_the_command() -> None:
    printed = subprocess.run(["make", "-C", ROOT, "-n", "gpu-test"], capture_output=True, text=True, check=True).stdout
    assert "bin/python benchmarks/gpu.py" in printed


def test_without_torch_one_sentence_says_so(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('none')\n")
    done = run_command(PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (
        1,
        "error: torch isn't installed; the checks on a GPU need it, built for CUDA\n",
    )


def test_without_nvcc_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> None:
    from gpu import command, library

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setattr(library, "_USUAL_FOLDER", tmp_path)
    monkeypatch.setattr(command, "CudaDevice", HostDevice)
    assert command.main([]) == 1
    said = "error: there is no nvcc; install the CUDA toolkit, or set CUDA_HOME to where it is\n"
    assert capsys.readouterr().err == said


def test_floors_are_printed_without_a_gpu() -> None:
    from gpu.document import floors_text

    done = run_command("--floors")
    assert (done.returncode, done.stdout, done.stderr) == (0, floors_text(), "")


@pytest.mark.parametrize("arguments", [["--parts", "speed"], ["--seed", "-1"], ["--seed", "x"], ["--nothing"]])
def test_a_wrong_option_is_refused(arguments: list[str]) -> None:
    from gpu.command import main

    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2


@pytest.mark.parametrize("name", ["shapes", "floors", "exact", "timing", "report"])
def test_examples_in_docstrings_hold(name: str) -> None:
    results = doctest.testmod(importlib.import_module(f"gpu.{name}"))
    assert results.attempted > 0
    assert results.failed == 0
