"""What must be right on a GPU, where there is none: what the kernels must give, and that the checks see what is not.

The checks run on an emulator that can be told to be wrong; see `gpu_emulator`.
"""

from __future__ import annotations

import itertools
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gpu_emulator import ROOT, has_gpu, nvcc
from host_device import HostDevice
from kept_build import kept
from on_gpu import checks, exact
from on_gpu.cases import Case, make_inputs, named_cases, random_cases
from on_gpu.checks import LAUNCH_SHAPES
from on_gpu.gates import check_gates
from on_gpu.guarded import count_nodes
from on_gpu.library import CALLS, DeviceError, Library, kernel_sources, library_command
from on_gpu.sanitizer import run_tool, run_watched
from on_gpu.shape import TYPES, Shape

from vmoe_export.ops import reference

FAULTS = ("slot", "weight", "src", "buf", "y", "fused", "order", "past", "unsteady")


# What the kernels must give


def test_exact_results_are_the_reference_s() -> None:
    compared = 0
    for case in itertools.chain(named_cases(1), random_cases(2, 60)):
        shape = case.shape
        if shape.all_tokens * shape.experts > 200_000:
            continue
        inputs = make_inputs(case)
        gates = inputs["gates"].float().numpy()
        got = exact.route(inputs["gates"], shape.capacity, shape.choices, shape.bpr)
        slot, weight, src, _ = reference.route(gates, shape.capacity, shape.choices, shape.bpr)
        np.testing.assert_array_equal(got[0].numpy(), slot, str(case))
        np.testing.assert_array_equal(got[2].numpy(), src, str(case))
        assert [tensor.dtype for tensor in got] == [torch.int32, inputs["gates"].dtype, torch.int32]
        np.testing.assert_array_equal(got[1].float().numpy(), weight, str(case))
        bits = torch.int32 if shape.type == "fp32" else torch.int16
        buf = reference.dispatch(inputs["x"].view(bits).numpy(), src)
        np.testing.assert_array_equal(exact.dispatch(inputs["x"], got[2]).view(bits).numpy(), buf, str(case))
        compared += 1
    assert compared > 150


@pytest.mark.parametrize("type", TYPES)
def test_combine_sums_in_float32_and_rounds_once(type: Any) -> None:
    inputs = make_inputs(Case(Shape(2, 40, 4, 3, 20, 17, type), "random", 5))
    slot, weight, _ = exact.route(inputs["gates"], 20, 3, True)
    wanted = torch.from_numpy(reference.combine(inputs["out"].float().numpy(), slot.numpy(), weight.numpy()))
    got = exact.combine(inputs["out"], slot, weight)
    assert torch.equal(got, wanted.to(inputs["out"].dtype))
    assert got.dtype == inputs["out"].dtype


# What the checks see


def test_the_emulator_passes_every_check(kernels: Library) -> None:
    device = HostDevice()
    small = [case for case in named_cases(1) if case.shape.all_tokens * case.shape.experts < 100_000]
    made = [
        checks.check_cases(device, kernels, "named", small),
        checks.check_cases(device, kernels, "random", random_cases(1, 20)),
        checks.check_streams(device, kernels, 1),
        checks.check_graphs(device, kernels, 1),
        checks.check_launches(device, kernels, LAUNCH_SHAPES[:4]),
    ]
    assert [check.failures for check in made] == [()] * 5
    assert made[0].count == len(small) > 100


def test_gates_are_those_of_the_program_on_a_cpu(kernels: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    right = check_gates(HostDevice(), kernels, 1)
    assert (right.count, right.failures) == (21, ())
    monkeypatch.setenv("VMOE_EMULATOR_FAULT", "gates")
    wrong = check_gates(HostDevice(), kernels, 1).failures
    assert len(wrong) >= 14  # where the bit that is turned is not that of a NaN
    assert re.fullmatch(r"gates \[1, 8\] of D 768, any, seed 1: 1 of 8 differ from the CPU's", wrong[0])


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_seen(kernels: Library, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setenv("VMOE_EMULATOR_FAULT", fault)
    case = Case(Shape(2, 50, 8, 2, 5, 6), "random", 1)
    failures = checks.check_case(HostDevice(), kernels, case)
    wrong = {"fused": "RouteDispatch: slot", "order": "slot", "past": "written past its ends", "unsteady": "y differs"}
    assert any(wrong.get(fault, f"{fault} differs") in failure for failure in failures), failures
    assert all(failure.startswith("2 x 50, E 8, K 2, c 5, D 6, fp32, random gates, seed 1: ") for failure in failures)
    if fault in ("slot", "y"):
        assert checks.check_graphs(HostDevice(), kernels, 1).failures
        assert checks.check_streams(HostDevice(), kernels, 1).failures


def test_launches_are_counted(kernels: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMOE_EMULATOR_FAULT", "launches")
    failures = checks.check_launches(HostDevice(), kernels, [Shape(1, 3000, 8, 1, 5, 6)]).failures
    assert [re.sub(" at .* is", ":", failure) for failure in failures][:2] == [
        "Route: 3 launches instead of 2",
        "Dispatch: 2 launches instead of 1",
    ]


# What is written past the ends, and what both of them do, is for compute-sanitizer and torch to see.
@pytest.mark.parametrize("fault", ["", "fused", "unsteady", "refuse"])
def test_the_watched_program_sees_faults_too(emulator: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setenv("VMOE_EMULATOR_FAULT", fault)
    check = run_watched([], emulator, 12, 7, "watched")
    if not fault:
        assert check.failures == ()
        return
    (failure,) = check.failures
    says = "CUDA says 'emulated error'" if fault == "refuse" else "of RouteDispatch is not that of Route and Dispatch at"
    assert failure.startswith("exit code 1: ") and says in failure


def test_what_a_tool_of_compute_sanitizer_reports_is_a_failure(emulator: Path, tmp_path: Path) -> None:
    program = tmp_path / "compute-sanitizer"
    program.write_text('#!/bin/sh\n[ "$2" = memcheck ] || { echo "===== $@"; exit 77; }\n')
    program.chmod(0o755)
    assert run_tool(program, "memcheck", emulator, 5, 3).failures == ()
    (failure,) = run_tool(program, "initcheck", emulator, 5, 3).failures
    assert failure.startswith("exit code 77: ===== --tool initcheck --error-exitcode 77 ")
    assert failure.endswith(f" -m on_gpu.watched {emulator} 5 3")


# The real library, as far as it goes without a GPU


@pytest.fixture(scope="module")
def real_library() -> Path:
    """Compiled with the benchmark's own line."""
    name = "libkernel_calls.so"
    *command, _, _ = library_command(nvcc(), "sm_90", Path(name))
    return kept(name, *command)


def test_real_library_compiles_and_has_its_symbols(real_library: Path) -> None:
    listed = subprocess.run(["nm", "-D", "--defined-only", real_library], capture_output=True, text=True, check=True)
    called = set(re.findall(r"\b(vmoe_gpu_\w+)\(", CALLS.read_text()))
    assert called | {"vmoe_gpu_empty"} <= {line.split()[-1] for line in listed.stdout.splitlines()}
    needed = subprocess.run(["readelf", "-d", real_library], capture_output=True, text=True, check=True).stdout
    assert "cudart" not in needed


def test_real_library_without_a_gpu_gives_cuda_s_words(real_library: Path) -> None:
    if has_gpu():
        pytest.skip("there is a GPU here, and the call would be real")
    library, shape = Library(real_library), Shape(1, 197, 8, 2, 30)
    nowhere = dict.fromkeys(("gates", "x", "out", "slot", "weight", "src", "buf", "y", "workspace"), 0)
    for name, call in {
        "route": lambda: library.launch("Route", shape, nowhere, 0),
        "dispatch": lambda: library.launch("Dispatch", shape, nowhere, 0),
        "route_dispatch": lambda: library.launch("RouteDispatch", shape, nowhere, 0),
        "combine": lambda: library.launch("Combine", shape, nowhere, 0),
        "empty": lambda: library.call("empty", 0),
        "begin_count": lambda: count_nodes(library, 0, lambda: None),
    }.items():
        with pytest.raises(DeviceError, match=rf"^{name}: CUDA says '[^']*(driver|device)[^']*' \(error \d+\)$"):
            call()
    with pytest.raises(DeviceError, match="invalid argument"):
        library.launch("Route", replace(shape, choices=9), nowhere, 0)


def test_kernels_are_compiled_from_the_same_sources_and_alike_everywhere() -> None:
    cmake = (ROOT / "plugins" / "cuda" / "CMakeLists.txt").read_text()
    listed = re.search(r"add_library\(vmoe_cuda STATIC([^)]*)\)", cmake)
    assert listed is not None
    assert {path.name for path in kernel_sources()} == set(listed[1].split())
    line = library_command(Path("nvcc"), "sm_86", Path("target"))
    assert line[-2:] == ["-o", "target"]
    assert "-arch=sm_86" in line
    assert all(flag in line for flag in re.findall(r"CUDA>:(-[\w=-]+)>", cmake))
    assert "-std=c++17" in line
