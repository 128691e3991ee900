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
from typing import Any

import numpy as np
import onnx
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
V1_BUNDLE = Path(__file__).parent / "data" / "bundles" / "v1-fp32"
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
    from cpu.peer_int8 import missing_nncf

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
        if RUNS[p["run"]].exact:
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


def test_fits_and_switches_are_reported(report: dict[str, Any]) -> None:
    assert {(fit["run"], fit["batch"]) for fit in report["fits"]} == {(run, batch) for run in SPARSE for batch in (1, 2)}
    assert all(len(fit["kept_pairs"]) == 3 and fit["r_squared"] <= 1 for fit in report["fits"])
    assert {switch["run"] for switch in report["switches"]} == set(SPARSE)


def test_loading_every_bundle_is_reported(report: dict[str, Any]) -> None:
    assert [m["bundle"] for m in report["loading"]] == [name.replace("engine", "tiny") for name in (*SPARSE, *DENSE)]
    for m in report["loading"]:
        assert 0 < m["before"]["anonymous"] < m["first"]["anonymous"]
        assert 0 < m["seconds"]["answer"] < m["seconds"]["load"]
        grown = sum(m["first"].values()) - sum(m["before"].values())
        assert m["first_over_weights"] == pytest.approx(grown / m["weights"])


def test_peaks_are_measured_for_every_precision(report: dict[str, Any], speed: Any) -> None:
    from cpu.floors import Floors

    floors = Floors(**report["floors"]["1"])
    assert floors.peaks["fp32"] > 1e9
    assert floors.read_bytes > 1e8
    assert floors.flops("int8") >= floors.flops("fp32")
    assert Floors({"fp32": 3.0, "bf16_vectors": 2.0, "bf16_tiles": 9.0}, 1.0).flops("bf16") == 9
    assert Floors({"fp32": 3.0, "bf16_vectors": 2.0}, 1.0).flops("bf16") == 3  # widened to float32


def test_layers_alone_are_measured_where_there_is_an_op_library(report: dict[str, Any]) -> None:
    if report["op_library"] is None:
        assert report["layers"] == report["routing"] == []
        pytest.skip("this installation has no op library")
    measured = {(k["op"], k["arithmetic"], k["batch"]) for k in report["layers"]}
    ops = (
        "VmoeLinear",
        "VmoeAttention",
        "VmoeDenseMlp",
        "VmoeAttentionBlock",
        "VmoeMlpBlock",
        "VmoeExpertMlp",
        "VmoeExpertBlock",
    )
    arithmetics = "fp32", "bf16", "int8"
    assert measured == {
        *((op, arithmetic, batch) for op in ops for arithmetic in arithmetics for batch in (1, 2)),
        *(("VmoeExpertMlp", arithmetic, 32) for arithmetic in arithmetics),
        *(("VmoeRouterBlock", "fp32", batch) for batch in (1, 2)),
    }
    for k in report["layers"]:
        assert 0 < k["ms"] <= k["ms_median"]
        assert k["peak_share"] > 0
    mlp = next(k for k in report["layers"] if (k["op"], k["arithmetic"], k["batch"]) == ("VmoeMlpBlock", "int8", 2))
    assert (mlp["rows"], mlp["flops"], mlp["weight_bytes"]) == (100, 100 * 4 * 64 * 128, 2 * 64 * 128)
    for cost in report["routing"]:
        fused = cost["op_ms"]["VmoeRouterBlock"]
        assert cost["separate_ms"] == pytest.approx(sum(cost["op_ms"].values()) - fused)
        assert 0 < cost["bare_ms"] < cost["separate_ms"]
        assert cost["fused_ms"] == pytest.approx(fused + cost["bare_ms"] - cost["op_ms"]["VmoeRoute"])
        assert set(cost["shares"]) == set(SPARSE)


def test_layers_that_the_library_lacks_are_left_out(speed: Any, tmp_path: Path) -> None:
    from cpu.errors import BenchmarkError
    from cpu.layer_graph import LayerGraph
    from cpu.node_times import node_times

    graph = LayerGraph("VmoeLinear", {"N": 1, "T": 2, "D": 3, "P": 4}, "fp32")
    graph.add("VmoeLinear", {"x": "x"}, ["y"])
    other = onnx.load(graph.write(tmp_path))
    other.graph.node[0].op_type = "VmoeNothing"
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(BenchmarkError, match=r"other\.onnx can't be timed"):
        node_times(tmp_path / "other.onnx", {"x": np.zeros((1, 2, 3), np.float32)}, 1, 1, speed.find_library())


def test_table_and_picture_show_the_report(quick: tuple[Path, int], report: dict[str, Any]) -> None:
    folder, _ = quick
    text = (folder / "speed.md").read_text()
    for p in report["points"]:
        assert f"| {p['title']} |" in text
        assert f"{p['ms'] / p['batch']:.2f}" in text
    assert "## tiny, batch 2, 1 threads" in text
    assert (folder / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_the_readmes_table_and_picture_come_from_a_report(
    quick: tuple[Path, int], report: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import speed_figures
    from cpu.runs import RUNS

    picture = tmp_path / "speed.png"
    assert speed_figures.main([str(quick[0] / "speed.json"), "--batch", "2", "--picture", str(picture)]) == 0
    text = capsys.readouterr().out
    for p in report["points"]:
        title = RUNS[p["run"]].title
        if p["ck"] in (None, 0.3) and p["batch"] == 2:
            assert f"{title}** | {p['ms'] / 2:.1f} |" in text or f"| {title} | {p['ms'] / 2:.1f} |" in text
    assert "| **V-MoE, this engine, int8** |" in text
    assert "| V-MoE, this engine, bf16 / dense ViT, OpenVINO, bf16 |" in text
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert speed_figures.main([str(quick[0] / "speed.json"), "--batch", "3"]) == 1
    assert speed_figures.main([str(tmp_path / "nothing.json")]) == 1


def test_only_the_chosen_runs_and_parts_are_measured(
    speed: Any, quick: tuple[Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").symlink_to(quick[0] / "work")  # models are there already
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    chosen = ["engine-dense-int8", "dense-ort-int8", "dense-openvino-int8"]
    options = ["--parts", "cells", "--batch", "1", "--rounds", "1"]
    speed.main(["--quick", "-o", str(tmp_path), "--runs", *chosen, *options])
    report = json.loads((tmp_path / "speed.json").read_text())
    assert [p["run"] for p in report["points"]] == ["engine-dense-int8", "dense-ort-int8"]
    assert list(report["missing"]) == ["dense-openvino-int8"]
    assert report["missing"]["dense-openvino-int8"].startswith("nncf isn't installed")
    assert report["layers"] == report["loading"] == report["ratios"] == []
    assert report["void"] == [sentence for sentence in report["void"] if "other processes" in sentence]


def test_exit_code_says_whether_the_run_is_void(quick: tuple[Path, int], report: dict[str, Any]) -> None:
    assert quick[1] == (1 if report["void"] else 0)


def test_a_slow_peer_voids_the_run(speed: Any) -> None:
    from cpu.known_machines import find_machine, load_table, slow_peers

    zen5 = find_machine(load_table(), {"vendor": "AuthenticAMD", "family": 26, "model": 2, "name": "AMD EPYC"})
    assert zen5 is not None
    key = "b16 batch 1 threads 2 dense-ort-fp32"
    known = zen5["peers_ms"][key]
    assert slow_peers(zen5, {key: 1.09 * known}) == []
    (sentence,) = slow_peers(zen5, {key: 1.11 * known, "unheard of": 1e9})
    assert sentence.startswith(f"{key} took {1.11 * known:.1f} ms an image")
    assert slow_peers(None, {key: 1e9}) == []


def test_recorded_peers_stay_the_fastest_seen(speed: Any, tmp_path: Path) -> None:
    from cpu.known_machines import load_table, record_peers

    table, cpu = tmp_path / "machines.json", {"vendor": "V", "family": 1, "model": 2, "name": "some CPU"}
    record_peers(cpu, {"a": 5.0, "b": 7.0}, table)
    record_peers(cpu, {"a": 6.0, "b": 6.5, "c": 1.0}, table)
    (machine,) = load_table(table)
    assert machine["name"] == "some CPU"
    assert machine["peers_ms"] == {"a": 5.0, "b": 6.5, "c": 1.0}


def test_peer_graphs_are_of_standard_ops_only(quick: tuple[Path, int]) -> None:
    graphs = sorted((quick[0] / "work").glob("tiny-per-expert-batch*.onnx"))
    assert len(graphs) == 6
    for path in graphs:
        model = onnx.load(str(path), load_external_data=False)
        assert not model.functions
        assert {node.domain for node in model.graph.node} == {""}


def test_all_forms_of_the_dense_peer_agree(quick: tuple[Path, int]) -> None:
    from cpu.cell import make_cell
    from cpu.models import prepare
    from cpu.peer_graphs import FORMS
    from cpu.peer_runs import dense_graph
    from cpu.runtimes import ort_session

    work = quick[0] / "work"
    cell = make_cell(prepare("tiny", work), 2, 1, [], work)
    images = cell.model.images(2)
    results = [ort_session(dense_graph(cell, form), 1).run(["logits"], {"image": images})[0] for form in FORMS]
    assert len(results) == 6
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], atol=1e-5)


def test_a_run_with_other_weights_is_refused(speed: Any) -> None:
    from cpu.cells import Distance, check_agreement
    from cpu.errors import BenchmarkError
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


@pytest.mark.parametrize("name", ["cells", "known_machines", "models", "points", "report", "timing"])
def test_examples_in_docstrings_hold(speed: Any, name: str) -> None:
    results = doctest.testmod(importlib.import_module(f"cpu.{name}"))
    assert results.attempted > 0
    assert results.failed == 0


def test_int8_is_calibrated_on_noise_and_on_smooth_images(speed: Any) -> None:
    from cpu.peer_int8 import calibration_batches

    noise, smooth = calibration_batches((8, 28, 30, 3))
    for batch in (noise, smooth):
        assert (batch.shape, batch.dtype) == ((8, 28, 30, 3), np.float32)
        assert -1 <= batch.min() < batch.max() <= 1
    steps = [np.abs(np.diff(batch, axis=2)).mean() for batch in (noise, smooth)]
    assert steps[1] < steps[0] / 2


@pytest.fixture
def other_installation(speed: Any, tmp_path: Path) -> Path:
    """A folder with a copy of the runtime and its op library."""
    library = speed.find_library()
    if library is None:
        pytest.skip("this installation has no op library")
    package = tmp_path / "site-packages" / "vmoe_runtime"
    shutil.copytree(Path(speed.__file__).parents[1] / "runtime" / "vmoe_runtime", package)
    (package / "lib").mkdir(exist_ok=True)
    shutil.copy(library, package / "lib")
    return package.parent


def test_two_installations_are_timed_in_turns(other_installation: Path, tmp_path: Path) -> None:
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


def test_the_bench_and_a_bare_session_are_timed_in_turns(
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
