"""The CPU benchmark on a tiny model: all runs give the same logits, and its figures are what they say."""

from __future__ import annotations

import doctest
import importlib
import json
import math
import shutil
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest

from vmoe_runtime.op_library import find_library

pytestmark = pytest.mark.long

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
V1_BUNDLE = Path(__file__).parents[1] / "data" / "bundles" / "v1-fp32"
CKS = (0.3, 1.05, 2.1)
SPARSE = ("engine-sparse-fp32", "engine-sparse-bf16", "engine-sparse-int8", "engine-sparse-bf16-experts")
DENSE = ("engine-dense-fp32", "engine-dense-bf16", "engine-dense-int8")
POINT_NUMBERS = ("ms", "images_per_second", "flops", "flop_floor_ms", "memory_floor_ms")


@pytest.fixture(scope="module")
def speed() -> Iterator[Any]:
    """The command's module; its folder is on the path, as it is when the command runs."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import speed as module

        yield module
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def quick(speed: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The folder of a quick run of everything, and its exit code."""
    from cpu.runs import RUNS

    folder = tmp_path_factory.mktemp("speed")
    return folder, speed.main(["--quick", "-o", str(folder), "--runs", *RUNS])


@pytest.fixture(scope="module")
def report(quick: tuple[Path, int]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((quick[0] / "speed.json").read_text())
    return content


def test_every_run_is_timed_at_every_setting(report: dict[str, Any]) -> None:
    from cpu.runs import RUNS

    timed = {(p["run"], p["batch"], p["ck"]) for p in report["points"]}
    cks = {name: CKS if run.kind == "sparse" else (None,) for name, run in RUNS.items() if run.missing() is None}
    assert timed == {(name, batch, ck) for name, settings in cks.items() for batch in (1, 2) for ck in settings}
    assert all(p["rounds"] == 3 for p in report["points"])


def test_int8_in_openvino_is_timed_where_nncf_is(report: dict[str, Any]) -> None:
    from cpu.int8_peers import missing_nncf

    timed = any(p["run"] == "dense-openvino-int8" for p in report["points"])
    if reason := missing_nncf():
        assert report["missing"] == {"dense-openvino-int8": reason}
        assert not timed
        pytest.skip(reason)
    assert timed
    assert report["missing"] == {}


def test_all_runs_give_the_same_logits(report: dict[str, Any]) -> None:
    from cpu.runs import RUNS

    for p in report["points"]:
        if set(RUNS[p["run"]].numbers) == {"fp32"}:
            assert p["logits_difference"] <= 1e-5, (p["run"], p["ck"])
        else:
            assert 0 < p["relative_difference"] <= 0.05, (p["run"], p["ck"])


def test_figures_fit_together(report: dict[str, Any]) -> None:
    for p in report["points"]:
        assert all(math.isfinite(p[name]) and p[name] > 0 for name in POINT_NUMBERS), p
        assert p["images_per_second"] == pytest.approx(1e3 * p["batch"] / p["ms"])


def test_more_capacity_keeps_more_pairs_and_costs_more_flops(report: dict[str, Any]) -> None:
    for run in SPARSE:
        for batch in (1, 2):
            engine = [p for p in report["points"] if (p["run"], p["batch"]) == (run, batch)]
            engine.sort(key=lambda p: p["ck"])
            for less, more in pairwise(engine):
                assert less["kept_pairs"] < more["kept_pairs"] <= more["asked_pairs"]
                assert less["flops"] < more["flops"]
                assert less["flop_floor_ms"] < more["flop_floor_ms"]


def test_ratios_are_those_of_the_medians(report: dict[str, Any]) -> None:
    points = {(p["run"], p["batch"], p["ck"]): p for p in report["points"]}
    assert {(r["run"], r["over"]) for r in report["ratios"]} >= {
        ("engine-sparse-bf16", "dense-openvino-bf16"),
        ("engine-dense-bf16", "dense-openvino-bf16"),
        ("engine-sparse-int8", "engine-dense-int8"),
        ("engine-sparse-fp32", "dense-ort-fp32"),
        ("engine-sparse-fp32", "per-expert-ort-fp32"),
    }
    for r in report["ratios"]:
        own = points[r["run"], r["batch"], r["ck"]]
        over = points[r["over"], r["batch"], r["ck"] if (r["over"], r["batch"], r["ck"]) in points else None]
        assert r["ratio"] == over["ms"] / own["ms"]
        assert r["flops_ratio"] == over["flops"] / own["flops"]


def test_a_lower_precision_has_lower_floors(report: dict[str, Any]) -> None:
    for kind in (SPARSE, DENSE):
        points = [p for name in kind[:3] for p in report["points"] if (p["run"], p["batch"]) == (name, 2)]
        floors = {p["run"]: p for p in points if p["ck"] in (None, 0.3)}
        for higher, lower in pairwise(floors.values()):
            assert lower["memory_floor_ms"] < higher["memory_floor_ms"]
            assert lower["flop_floor_ms"] <= higher["flop_floor_ms"]


def test_peaks_are_measured_for_every_precision(report: dict[str, Any], speed: Any) -> None:
    from cpu.floors import Floors

    floors = Floors(**report["floors"]["1"])
    assert floors.peaks["fp32"] > 1e9
    assert floors.read_bytes > 1e8
    assert floors.flops("int8") >= floors.flops("fp32")
    assert Floors({"fp32": 3.0, "bf16_vectors": 2.0, "bf16_tiles": 9.0}, 1.0).flops("bf16") == 9
    assert Floors({"fp32": 3.0, "bf16_vectors": 2.0}, 1.0).flops("bf16") == 3  # widened to float32


def test_table_and_picture_show_the_report(quick: tuple[Path, int], report: dict[str, Any]) -> None:
    folder, _ = quick
    text = (folder / "speed.md").read_text()
    for p in report["points"]:
        assert f"| {p['title']} |" in text
        assert f"{p['ms'] / p['batch']:.2f}" in text
    assert "## tiny, batch 2, 1 threads" in text
    assert (folder / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_only_the_chosen_runs_are_measured(
    speed: Any, quick: tuple[Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").symlink_to(quick[0] / "work")  # models are there already
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    chosen = ["engine-dense-int8", "dense-ort-int8", "dense-openvino-int8"]
    options = ["--batch", "1", "--rounds", "1"]
    speed.main(["--quick", "-o", str(tmp_path), "--runs", *chosen, *options])
    report = json.loads((tmp_path / "speed.json").read_text())
    assert [p["run"] for p in report["points"]] == ["engine-dense-int8", "dense-ort-int8"]
    assert list(report["missing"]) == ["dense-openvino-int8"]
    assert report["missing"]["dense-openvino-int8"].startswith("nncf isn't installed")
    assert report["ratios"] == []


def test_exit_code_says_whether_the_run_is_void(quick: tuple[Path, int], report: dict[str, Any]) -> None:
    assert quick[1] == (1 if report["void"] else 0)


def test_other_processes_void_the_run(speed: Any, tmp_path: Path) -> None:
    from cpu.cells import CellResult
    from cpu.floors import Floors
    from cpu.models import prepare
    from cpu.runs import Cell

    cell = Cell(prepare("tiny", tmp_path), 8, 2, {})
    busy = "other processes took 6% of the machine while tiny, batch 8, 2 threads was timed"
    for share, void in ((0.04, []), (None, []), (0.06, [busy])):
        result = CellResult(cell, {}, {}, {}, {}, share)
        report = speed.make_report([result], {2: Floors({"fp32": 1.0}, 1.0)}, {})
        assert report["void"] == void


def test_floors_are_those_of_the_model(speed: Any, tmp_path: Path) -> None:
    from cpu.floors import work_of
    from cpu.models import prepare

    config = prepare("tiny", tmp_path).config
    tokens, width, hidden, experts = 50, 64, 128, 8
    work = work_of(config, ("int8", "bf16", "fp32"), 2, 30, 9)
    patch = 4 * 4 * 3
    linear = 2 * 2 * 49 * patch * width + 2 * 2 * tokens * (4 * 4 * width**2 + 2 * 2 * width * hidden)
    assert work.flops["int8"] == linear
    assert work.flops["bf16"] == 4 * 4 * 2 * tokens**2 * width
    assert work.flops["fp32"] == 30 * 4 * width * hidden + 2 * (2 * 2 * tokens * width * experts) + 2 * 2 * width * 10
    more = work_of(config, ("int8", "bf16", "fp32"), 2, 30, 10)
    assert more.weight_bytes - work.weight_bytes == 4 * (2 * width * hidden + width + hidden)


def test_peer_graphs_are_of_standard_ops_only(quick: tuple[Path, int]) -> None:
    graphs = sorted((quick[0] / "work").glob("tiny-per-expert-batch*.onnx"))
    assert len(graphs) == 6
    for path in graphs:
        model = onnx.load(str(path), load_external_data=False)
        assert not model.functions
        assert {node.domain for node in model.graph.node} == {""}


def test_all_forms_of_the_dense_peer_agree(quick: tuple[Path, int]) -> None:
    from cpu.cells import make_cell
    from cpu.models import prepare
    from cpu.peer_graphs import Attention
    from cpu.runs import dense_graph, in_ort

    cell = make_cell(prepare("tiny", quick[0] / "work"), 2, 1, [])
    images = cell.model.images(2)
    results = [in_ort(dense_graph(cell, form), 1)(images) for form in get_args(Attention)]
    assert len(results) == 3
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], atol=1e-5)


def test_a_run_with_other_weights_is_refused(speed: Any) -> None:
    from command_line import BenchmarkError
    from cpu.cells import Distance, check_agreement
    from cpu.runs import RUNS

    for name, fine, far in (
        ("dense-ort-fp32", Distance(4e-3, 9.0), Distance(6e-3, 0.0)),
        ("dense-openvino-bf16", Distance(9.0, 0.19), Distance(0.0, 0.21)),
        ("dense-ort-int8", Distance(9.0, 0.3), Distance(0.0, 0.4)),
    ):
        check_agreement(RUNS[name], fine)
        for distance in (far, Distance(math.nan, math.nan)):
            with pytest.raises(BenchmarkError, match=f"{name} is not the same model"):
                check_agreement(RUNS[name], distance)


def test_kept_pairs_and_experts_are_counted(speed: Any) -> None:
    from cpu.cells import Kept, count_kept

    # Two layers of one group of three tokens.
    placed = [np.array([[[0], [0], [-1]]]), np.array([[[1], [-1], [0]]])]
    assert count_kept(placed) == Kept(kept=4, asked=6, used_experts=3)


@pytest.mark.parametrize("name", ["command_line", "cpu.cells", "cpu.models", "cpu.timing"])
def test_examples_in_docstrings_hold(speed: Any, name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted > 0
    assert results.failed == 0


def test_int8_is_calibrated_on_noise_and_on_smooth_images(speed: Any) -> None:
    from cpu.int8_peers import calibration_batches

    noise, smooth = calibration_batches((8, 28, 30, 3))
    for batch in (noise, smooth):
        assert (batch.shape, batch.dtype) == ((8, 28, 30, 3), np.float32)
        assert -1 <= batch.min() < batch.max() <= 1
    steps = [np.abs(np.diff(batch, axis=2)).mean() for batch in (noise, smooth)]
    assert steps[1] < steps[0] / 2


@pytest.fixture
def other_installation(speed: Any, tmp_path: Path) -> Path:
    """A folder with a copy of the runtime and its op library."""
    library = find_library()
    if library is None:
        pytest.skip("this installation has no op library")
    package = tmp_path / "site-packages" / "vmoe_runtime"
    shutil.copytree(Path(speed.__file__).parents[1] / "runtime" / "vmoe_runtime", package)
    (package / "lib").mkdir(exist_ok=True)
    shutil.copy(library, package / "lib")
    return package.parent


def test_calls_of_two_installations_are_interleaved(other_installation: Path, tmp_path: Path) -> None:
    import installations

    out = tmp_path / "installations.json"
    options = ["--batch", "0", "1", "4", "--threads", "1", "--rounds", "3", "--processes", "2", "--json", str(out)]
    assert installations.main([str(other_installation), str(V1_BUNDLE), *options]) == 0
    report = json.loads(out.read_text())
    assert str(other_installation) in report["old"]
    assert str(other_installation) not in report["new"]
    assert [p["batch"] for p in report["points"]] == [0, 1, 4]
    for p in report["points"]:
        assert p["ratios"] == [old / new for old, new in zip(p["old"], p["new"], strict=True)]
        assert len(p["ratios"]) == 2
        assert p["ratio"] == pytest.approx(sum(p["ratios"]) / 2)  # the median of two
        assert p["logits_ratio"] == 1  # the same library


def test_the_bench_and_a_bare_session_are_interleaved(
    speed: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import bench_overhead

    assert bench_overhead.main([str(V1_BUNDLE), "--batch", "1", "2", "--threads", "1", "--duration", "0.1"]) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["1", "2"]
    for _, bench, bare, ratio in rows:
        assert float(bench) / float(bare) == pytest.approx(float(ratio), rel=0.01)
    assert bench_overhead.main([str(tmp_path / "nothing.vmoe")]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_a_part_of_an_installation_is_refused(
    other_installation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import installations

    empty = tmp_path / "empty"
    empty.mkdir()
    assert installations.main([str(empty), str(V1_BUNDLE)]) == 1
    assert f"{empty} has no whole installation of vmoe-export" in capsys.readouterr().err
    assert installations.main([str(other_installation), str(tmp_path / "nothing.vmoe")]) == 1
    assert "an installation stopped" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--batch", "0"], ["--ck", "9"], ["--models", "b17"], ["--runs", "nobody"]])
def test_a_wrong_option_is_refused(speed: Any, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        speed.main(arguments)
    assert stopped.value.code == 2
