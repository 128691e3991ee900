"""The GPU benchmark where there is no GPU: whole runs on an emulator, what it needs and what it refuses."""

from __future__ import annotations

import doctest
import functools
import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gpu import command, timing
from gpu.floors import floors_text
from gpu.report import Report, file_name
from gpu.shapes import shape_for
from gpu_emulator import BENCHMARKS, ROOT, has_gpu
from host_device import HostDevice
from on_gpu import cases, checks, frameworks, library, sanitizer
from on_gpu.cases import Case
from on_gpu.check import Check
from on_gpu.library import KERNELS
from on_gpu.shape import Shape

from vmoe_runtime import Engine
from vmoe_runtime.bundle.reader import Bundle

# A whole run on the emulator

SHAPE = Shape(2, 50, 8, 2, 9, 16)


@pytest.fixture
def small_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few cases and shapes, and no compute-sanitizer."""
    monkeypatch.setattr(cases, "named_cases", lambda seed: [Case(SHAPE, "tied", seed)])
    monkeypatch.setattr(command, "WHOLE", command.WHOLE | {"random_cases": 3, "repeats": 2})
    monkeypatch.setattr(command, "QUICK", command.QUICK | {"random_cases": 2, "repeats": 1})
    monkeypatch.setattr(checks, "LAUNCH_SHAPES", checks.LAUNCH_SHAPES[:3])
    monkeypatch.setattr(command, "bar_shapes", lambda: [SHAPE])
    monkeypatch.setattr(command, "sweep_shapes", lambda: [replace(SHAPE, bpr=False)])
    monkeypatch.setattr(timing, "_COPY_BYTES", 1 << 16)
    monkeypatch.setattr(sanitizer, "find_sanitizer", lambda: None)


def run_on_emulator(emulator: Path, folder: Path, *arguments: str) -> tuple[Report, int]:
    report = command.run(command.parse_arguments(["-o", str(folder), *arguments]), HostDevice(), emulator)
    return report, report.end()


def test_a_run_writes_its_report(emulator: Path, small_plan: None, tmp_path: Path, capsys: Any) -> None:
    report, code = run_on_emulator(emulator, tmp_path, "--parts", "exactness", "memcheck", "timing", "--seed", "9")
    told = capsys.readouterr()
    assert report.path == tmp_path / "gpu_Emulator-1_exactness_memcheck_timing.md"
    text = report.path.read_text()
    assert text == told.out
    assert report.failures == []
    checks = re.findall(r"^- (.*): [\d,]+ checked, 0 wrong$", text, re.MULTILINE)
    assert checks[:3] == ["planted faults are seen", "named cases", "random cases"]
    assert checks[-1].startswith("launches")
    assert len(report.rows) == 8
    assert sum(row["bar"] is not None for row in report.rows) == 4
    assert "Seed 9." in text and "seed 9" in told.err
    assert report.skipped == ["memcheck: compute-sanitizer isn't installed (it comes with the CUDA toolkit)"]
    assert text.count("skipped: memcheck: compute-sanitizer isn't installed") == 2
    for row in report.rows:
        assert f"| {row['time'].median * 1e6:.2f} |" in text
    assert code == (3 if any(row["passes"] is False for row in report.rows) else 4)
    assert "checks, 0 failures" in text.splitlines()[-1]


# A run of a few cases and one shape, killed after so many kernels were timed, where there is no package but torch.
_ALONE = """
import os, signal, sys
import torch

for name in ("numpy", "vmoe_runtime", "vmoe_export", "onnxruntime", "onnx", "ml_dtypes"):
    sys.modules[name] = None
from pathlib import Path
from gpu import command, timing
from host_device import HostDevice
from on_gpu.shape import Shape
from on_gpu import cases, checks

folder, library, kernels = sys.argv[1:]

class MortalDevice(HostDevice):
    released = 0

    def release(self):
        self.released += 1
        if self.released == 1 + int(kernels):  # once after the rates
            os.kill(os.getpid(), signal.SIGKILL)

command.WHOLE["random_cases"], checks.LAUNCH_SHAPES = 3, checks.LAUNCH_SHAPES[:2]
cases.named_cases, command.sweep_shapes = lambda seed: [], lambda: []
command.bar_shapes = lambda: [Shape(2, 50, 8, 2, 9, 16)]
timing._COPY_BYTES = 1 << 16
given = command.parse_arguments(["-o", folder, "--parts", "exactness", "timing"])
sys.exit(command.run(given, MortalDevice(), Path(library)).end())
"""


def run_alone(emulator: Path, folder: Path, kernels: int) -> tuple[int, str]:
    """Exit code and report of _ALONE."""
    paths = os.pathsep.join(map(str, (BENCHMARKS, Path(__file__).parent, Path(__file__).parents[1])))
    line = [sys.executable, "-c", _ALONE, folder, emulator, str(kernels)]
    done = subprocess.run(line, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3, -signal.SIGKILL), done.stderr
    return done.returncode, (folder / "gpu_Emulator-1_exactness_timing.md").read_text()


def test_a_killed_run_keeps_the_rows_that_it_had(emulator: Path, tmp_path: Path) -> None:
    code, text = run_alone(emulator, tmp_path, 3)
    assert code == -signal.SIGKILL
    assert re.findall(r"^\| (\w+) 2 x 50", text, re.MULTILINE) == ["Route", "Dispatch", "RouteDispatch"]


def test_a_run_needs_no_package_but_torch(emulator: Path, tmp_path: Path) -> None:
    code, text = run_alone(emulator, tmp_path, 100)
    assert code in (0, 3)  # the bars of a GPU mean nothing here
    assert " 0 failures" in text
    assert len(re.findall(r"^\| \w+ 2 x 50", text, re.MULTILINE)) == len(KERNELS)


def test_a_run_that_is_stopped_says_where_its_rows_are(
    emulator: Path, small_plan: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "Device", HostDevice)
    monkeypatch.setattr(command, "build", lambda _: emulator)
    monkeypatch.setattr(command, "find_nvcc", lambda: Path("nvcc"))
    monkeypatch.setattr(command, "sweep_shapes", stop)
    assert command.main(["-o", str(tmp_path), "--parts", "exactness", "timing"]) == 1
    assert capsys.readouterr().err.endswith(f"stopped; what was done stands in {tmp_path}\n")
    assert (tmp_path / "gpu_Emulator-1_exactness_timing.md").read_text().count(" checked, 0 wrong") == 7


def test_only_chosen_shapes_are_timed(emulator: Path, small_plan: None, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(command, "bar_shapes", lambda: [SHAPE, shape_for(1, 197, 8, 1, 0.3), replace(SHAPE, groups=3)])
    report, _ = run_on_emulator(emulator, tmp_path, "--parts", "timing", "--shapes", "1 x 197", "E 8, K 1")
    assert {row["shape"].groups for row in report.rows} == {1}
    assert [path.name for path in tmp_path.iterdir()] == ["gpu_Emulator-1_timing_1-x-197_E-8-K-1.md"]
    assert file_name("A", []) == "gpu_A.md"


def test_exit_code_tells_what_is_wrong(tmp_path: Path) -> None:
    report, time = Report(tmp_path / "report.md"), timing.Time(1e-6, 2e-6, 3e-6)
    numbers = {"launches": 1, "bytes": 10, "of_copy": 0.5, "floor": 1e-6, "time": time, "torch": None}
    row = {"kernel": "Route", "shape": replace(SHAPE, hidden=0), **numbers}
    report.row(row | {"bar": 3e-6, "passes": True})
    report.row(row | {"bar": None, "passes": None})
    assert report.end() == 0
    report.skip("frameworks", "not here")
    assert report.end() == 4
    report.row(row | {"bar": 1.5e-6, "passes": False})
    assert report.end() == 3
    assert report.missed == ["Route at 2 x 50, E 8, K 2, c 9, fp32 took 2.00 µs; the bar is 1.50 µs"]
    report.check(Check("case", 3, ("it differs",)))
    assert report.end() == 1
    assert report.path.read_text().endswith("\n3 checks, 1 failures. 1 of 2 rows are within their bar.\n")


def test_wrong_bits_fail_the_run(emulator: Path, small_plan: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMOE_EMULATOR_FAULT", "buf")
    report, code = run_on_emulator(emulator, tmp_path, "--parts", "exactness")
    assert code == 1
    wrong = "2 x 50, E 8, K 2, c 9, D 16, fp32, tied gates, seed 1: buf differs"
    assert any(failure.startswith(f"named cases: {wrong}") for failure in report.failures)
    assert f"    - {wrong}" in report.path.read_text()


def test_an_error_of_the_card_is_a_failure(
    emulator: Path, small_plan: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VMOE_EMULATOR_FAULT", "refuse")
    report, code = run_on_emulator(emulator, tmp_path, "--parts", "exactness", "timing")
    assert code == 1
    text = report.path.read_text()
    assert " 0 wrong" not in text
    words = "2 x 50, E 8, K 2, c 9, D 16, fp32, tied gates, seed 1: route: CUDA says 'emulated error' (error 700)"
    assert f"named cases: {words}" in report.failures
    assert "- random cases: 1 checked, 1 wrong" in text  # nothing is run after it
    assert report.failures[-1].startswith("timing, 2 x 50, E 8, K 2, c 9, D 16, fp32: ")


# Whole models


def test_engines_that_agree_pass_and_others_do_not(mnist_image_bundle: Path) -> None:
    bundle = frameworks.ModelBundle(mnist_image_bundle, "mnist fp32", "fp32", timed=True)
    with Engine.load(mnist_image_bundle, "c0.3-k1", "onnxruntime") as engine:
        assert frameworks.compare("same", engine, bundle, "c0.3-k1").failures == []
        other = frameworks.compare("other", engine, bundle, "c1.05-k1")
        lines = frameworks.throughput(engine, 2)
    assert "are routed as on the CPU" in other.failures[0]
    for batch, line in zip(frameworks.BATCHES, lines, strict=True):
        found = re.search(rf", batch {batch}: ([\d.]+) ms a call, (\d+) images/s$", line)
        assert found is not None
        assert float(found[2]) == pytest.approx(batch / float(found[1]) * 1e3, rel=0.02, abs=1)


def test_models_are_exported_in_every_precision(tmp_path: Path) -> None:
    bundles = frameworks.prepare_bundles(tmp_path, "tiny")
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


def test_frameworks_that_are_missing_are_named_before_anything_is_exported(
    small_plan: None, emulator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(frameworks.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(frameworks, "prepare_bundles", lambda *_: pytest.fail("it exports"))
    report, code = run_on_emulator(emulator, tmp_path, "--parts", "frameworks")
    lacking = f"the installed ONNX Runtime {onnxruntime.__version__} has no"
    assert report.skipped == [
        "TensorRT: tensorrt isn't installed",
        f"ONNX Runtime, CUDA: {lacking} CUDAExecutionProvider; onnxruntime-gpu may have it",
        f"ONNX Runtime, TensorRT: {lacking} TensorrtExecutionProvider; onnxruntime-gpu may have it",
    ]
    assert code == 4
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(pytest.fail.Exception, match="it exports"):
        run_on_emulator(emulator, tmp_path, "--parts", "frameworks")


def test_a_framework_that_can_t_run_after_all_says_why(
    mnist_image_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if has_gpu():
        pytest.skip("there is a GPU here, and gpu.py runs them on it")
    before = os.environ.get("VMOE_CACHE_DIR")
    bundle = frameworks.ModelBundle(mnist_image_bundle, "mnist fp32", "fp32", timed=False)
    monkeypatch.setattr(frameworks, "missing", dict)
    monkeypatch.setattr(frameworks, "prepare_bundles", lambda *_: [bundle])
    report = Report(tmp_path / "report.md")
    frameworks.run(report, tmp_path, "tiny", 1)
    assert report.skipped[0].startswith(f"{frameworks.CUDA}: ")
    # The bundle has no graphs for TensorRT, which is said before what the machine lacks.
    assert sum("export it again with --tensorrt" in failure for failure in report.failures) >= 2
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


@pytest.fixture(scope="module")
def bare_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's files in a folder of their own, without what was built or installed."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("there is no git here to say what belongs to the repository")
    listed = subprocess.run(
        [git, "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    )
    tree = tmp_path_factory.mktemp("bare")
    for name in filter(None, listed.stdout.split("\0")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    return tree


def run_bare(tree: Path, *line: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in a tree as a machine does that has only what Debian has: no environment, and no network."""
    alone = ["unshare", "--user", "--net"] if _can_unshare() else []
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    return subprocess.run([*alone, *line], cwd=tree, env=environment, capture_output=True, text=True, check=False)


@functools.cache
def _can_unshare() -> bool:
    return (
        shutil.which("unshare") is not None
        and subprocess.run(["unshare", "--user", "--net", "true"], check=False).returncode == 0
    )


needs_python = pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="there is no python3 beside this one")


@needs_python
def test_floors_need_python_alone(bare_tree: Path) -> None:
    done = run_bare(bare_tree, "python3", "-X", "importtime", "benchmarks/gpu.py", "--floors")
    assert (done.returncode, done.stdout) == (0, floors_text())
    assert done.stdout.count("\n| RouteDispatch |") == 4 * 8
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "gpu" in imported
    assert not imported & {"torch", "numpy", "socket", "vmoe_runtime", "vmoe_export"}


@needs_python
@pytest.mark.skipif(not Path("/usr/bin/make").exists(), reason="there is no make")
def test_make_needs_neither_an_installation_nor_a_network(bare_tree: Path) -> None:
    done = run_bare(bare_tree, "make", "-s", "gpu-test", "GPU_TEST_OPTIONS=--floors")
    assert (done.returncode, done.stdout, done.stderr) == (0, floors_text(), "")
    assert not (bare_tree / ".venv").exists()


@needs_python
def test_without_torch_one_sentence_says_so(bare_tree: Path, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('none')\n")
    bare = run_bare(bare_tree, "env", f"PYTHONPATH={tmp_path}", "python3", "benchmarks/gpu.py")
    for done in (run_command(PYTHONPATH=str(tmp_path)), bare):
        assert (done.returncode, done.stderr) == (
            1,
            "error: torch isn't installed; the checks on a GPU need it, built for CUDA\n",
        )


def test_without_a_gpu_one_sentence_says_what_is_missing() -> None:
    if has_gpu():
        pytest.skip("there is a GPU here")
    done = run_command()
    assert done.returncode == 1
    assert re.fullmatch(r"error: (this torch \(.*\) is built without CUDA|torch finds no NVIDIA GPU).*\n", done.stderr)
    assert done.stdout == ""


@pytest.mark.parametrize("chosen", [[], ["--parts", "memcheck"]])
def test_without_nvcc_one_sentence_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path, chosen: list[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setattr(library, "_USUAL_FOLDER", tmp_path)
    monkeypatch.setattr(command, "Device", HostDevice)
    assert command.main(chosen) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "error: there is no nvcc; install the CUDA toolkit, or set CUDA_HOME to where it is"


@pytest.mark.parametrize(
    "arguments", [["--parts", "speed"], ["--shapes", "3 x 5"], ["--seed", "-1"], ["--seed", "x"], ["--nothing"]]
)
def test_a_wrong_option_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    assert stopped.value.code == 2


@pytest.mark.parametrize("name", ["shapes", "floors", "timing", "report"])
def test_examples_in_docstrings_hold(name: str) -> None:
    results = doctest.testmod(importlib.import_module(f"gpu.{name}"))
    assert results.attempted > 0
    assert results.failed == 0
