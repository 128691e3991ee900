"""The CPU benchmark on a tiny model: all runs give the same logits, and its figures are what they say."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import math
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pytest

from vmoe_runtime.op_library import find_library

pytestmark = pytest.mark.long

V1_BUNDLE = Path(__file__).parents[1] / "data" / "bundles" / "v3-plain"
CKS = (0.3, 1.05, 2.1)
SPARSE = ("engine-sparse-fp32", "engine-sparse-bf16", "engine-sparse-int8", "engine-sparse-bf16-experts")
DENSE = ("engine-dense-fp32", "engine-dense-bf16", "engine-dense-int8")
POINT_NUMBERS = ("ms", "images_per_second", "flops", "flop_floor", "memory_floor")


class Measured(NamedTuple):
    """What a run gave: its folder, points and what it printed; and the peaks that it measured."""

    folder: Path
    points: list[dict[str, Any]]
    text: str
    floors: Any


@pytest.fixture(scope="module")
def speed() -> Iterator[Any]:
    """The command's module; calls don't wait for what the last one left spinning."""
    import speed as module
    from cpu import timing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "_PAUSE_SECONDS", 0)
        yield module


@pytest.fixture(scope="module")
def quick(speed: Any, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """A quick run of everything."""
    folder, measure_floors, floors = tmp_path_factory.mktemp("speed"), speed.measure_floors, []
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setattr(speed, "measure_floors", lambda *given: floors.append(measure_floors(*given)) or floors[-1])
        points, _ = speed.run(speed.parse_arguments(["--quick", "-o", str(folder)]))
    return Measured(folder, points, printed.getvalue(), *floors)


def test_every_run_is_timed_at_every_setting(quick: Measured) -> None:
    from cpu.int8_peers import missing_nncf
    from cpu.runs import RUNS

    timed = {(p["run"], p["batch"], p["ck"]) for p in quick.points}
    cks = {name: CKS if run.kind == "sparse" else (None,) for name, run in RUNS.items()}
    if reason := missing_nncf():
        del cks["dense-openvino-int8"]
        assert f"Left out: dense-openvino-int8, as {reason}." in quick.text
    assert timed == {(name, batch, ck) for name, settings in cks.items() for batch in (1, 2) for ck in settings}
    if reason:
        pytest.skip(reason)


def test_all_runs_give_the_same_logits(quick: Measured) -> None:
    from cpu.runs import RUNS

    for p in quick.points:
        if set(RUNS[p["run"]].numbers) == {"fp32"}:
            assert p["logits_difference"] <= 1e-5, (p["run"], p["ck"])
        else:
            assert 0 < p["relative_difference"] <= 0.05, (p["run"], p["ck"])


def test_figures_fit_together(quick: Measured) -> None:
    for p in quick.points:
        assert all(math.isfinite(p[name]) and p[name] > 0 for name in POINT_NUMBERS), p
        assert p["lower"] <= p["ms"] <= p["upper"]
        assert p["images_per_second"] == pytest.approx(1e3 * p["batch"] / p["ms"])


def test_more_capacity_keeps_more_pairs_and_costs_more_flops(quick: Measured) -> None:
    for run in SPARSE:
        for batch in (1, 2):
            engine = [p for p in quick.points if (p["run"], p["batch"]) == (run, batch)]
            engine.sort(key=lambda p: p["ck"])
            for less, more in pairwise(engine):
                assert less["kept_pairs"] < more["kept_pairs"] <= 2 * 50 * 2 * batch  # two layers, two choices
                assert less["flops"] < more["flops"]
                assert less["flop_floor"] < more["flop_floor"]


def test_ratios_are_those_of_the_medians(speed: Any, quick: Measured) -> None:
    from cpu.cells import ratios_of

    cell = [p for p in quick.points if p["batch"] == 2]
    points, ratios = {(p["run"], p["ck"]): p for p in cell}, ratios_of(cell)
    assert {(r["run"], r["over"]) for r in ratios} >= {
        ("engine-sparse-bf16", "dense-openvino-bf16"),
        ("engine-dense-bf16", "dense-openvino-bf16"),
        ("engine-sparse-int8", "engine-dense-int8"),
        ("engine-sparse-fp32", "dense-ort-fp32"),
        ("engine-sparse-fp32", "per-expert-ort-fp32"),
    }
    for r in ratios:
        over = points[r["over"], r["ck"] if (r["over"], r["ck"]) in points else None]
        assert r["ratio"] == over["ms"] / points[r["run"], r["ck"]]["ms"]
        assert f"| {r['run']} | {r['over']} | " in quick.text


def test_a_lower_precision_has_lower_floors(quick: Measured) -> None:
    for kind in (SPARSE, DENSE):
        points = [p for name in kind[:3] for p in quick.points if (p["run"], p["batch"]) == (name, 2)]
        floors = {p["run"]: p for p in points if p["ck"] in (None, 0.3)}
        for higher, lower in pairwise(floors.values()):
            assert lower["memory_floor"] < higher["memory_floor"]
            assert lower["flop_floor"] <= higher["flop_floor"] * (1 + 1e-9)  # rounding of sums


def test_peaks_are_measured_for_every_precision(quick: Measured) -> None:
    from cpu.floors import Floors

    assert quick.floors.peaks["fp32"] > 1e9
    assert quick.floors.read_bytes > 1e8
    assert quick.floors.flops("int8") >= quick.floors.flops("fp32")
    assert "| threads | fp32 Gop/s |" in quick.text
    assert Floors({"fp32": 3.0, "bf16_vectors": 2.0, "bf16_tiles": 9.0}, 1.0).flops("bf16") == 9
    assert Floors({"fp32": 3.0, "bf16_vectors": 2.0}, 1.0).flops("bf16") == 3  # widened to float32


def test_table_and_picture_show_what_was_measured(quick: Measured) -> None:
    for p in quick.points:
        assert f"| {p['title']} |" in quick.text
        assert f"{p['ms'] / p['batch']:.2f}" in quick.text
    assert "## tiny, batch 2, 1 thread\n" in quick.text
    assert (quick.folder / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_only_the_chosen_runs_are_measured(
    speed: Any, quick: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "work").symlink_to(quick.folder / "work")  # models are there already, and so are the floors
    monkeypatch.setattr(speed, "build_floors", lambda folder: folder / "floors")
    monkeypatch.setattr(speed, "measure_floors", lambda *_: quick.floors)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    chosen = ["engine-dense-int8", "dense-ort-int8", "dense-openvino-int8"]
    options = ["--quick", "-o", str(tmp_path), "--batch", "1", "--rounds", "1", "--runs", *chosen]
    points, _ = speed.run(speed.parse_arguments(options))
    assert [p["run"] for p in points] == ["engine-dense-int8", "dense-ort-int8"]
    assert "Left out: dense-openvino-int8, as nncf isn't installed" in capsys.readouterr().out


def test_other_processes_void_the_run(speed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from cpu.models import prepare
    from cpu.runs import Cell

    cell = Cell(prepare("tiny", tmp_path), 8, 2, {})
    busy = "other processes took 6% of the machine while tiny, batch 8, 2 threads was timed"
    for share, void in ((0.04, []), (0.06, [busy])):
        assert speed.void_sentences(cell, share) == void
        monkeypatch.setattr(speed, "run", lambda _, void=void: ([], void))
        assert speed.main([]) == len(void)
        assert (f"void: {busy}\n" in capsys.readouterr().err) == bool(void)


def test_floors_are_those_of_the_model(speed: Any, tmp_path: Path) -> None:
    from cpu.floors import work_of
    from cpu.models import prepare

    config = prepare("tiny", tmp_path).configs["sparse"]
    tokens, width, hidden, experts = 50, 64, 128, 8
    flops, weight_bytes = work_of(config, ("int8", "bf16", "fp32"), 2, 30, 9)
    patch = 4 * 4 * 3
    linear = 2 * 2 * 49 * patch * width + 2 * 2 * tokens * (4 * 4 * width**2 + 2 * 2 * width * hidden)
    assert flops["int8"] == linear
    assert flops["bf16"] == 4 * 4 * 2 * tokens**2 * width
    assert flops["fp32"] == 30 * 4 * width * hidden + 2 * (2 * 2 * tokens * width * experts) + 2 * 2 * width * 10
    _, more = work_of(config, ("int8", "bf16", "fp32"), 2, 30, 10)
    assert more - weight_bytes == 4 * (2 * width * hidden + width + hidden)


def test_a_peer_with_a_product_per_expert_is_of_standard_ops_only(quick: Measured) -> None:
    from cpu.models import prepare
    from cpu.peer_graphs import write_graph

    model = prepare("tiny", quick.folder / "work")
    graph = write_graph(model.bundle("sparse"), model.configs["sparse"], 2, "separate", model.profile(2.1))
    assert not graph.functions
    assert {node.domain for node in graph.graph.node} == {""}
    assert sum(node.op_type == "Gelu" for node in graph.graph.node) == 2 + 2 * 8


def test_all_forms_of_the_dense_peer_agree(quick: Measured) -> None:
    from cpu.models import prepare
    from cpu.peer_graphs import Attention
    from cpu.runs import Cell, dense_graph, in_ort

    cell = Cell(prepare("tiny", quick.folder / "work"), 2, 1, {})
    images = cell.model.images(2)
    results = [in_ort(dense_graph(cell, form), 1)(images) for form in get_args(Attention)]
    assert len(results) == 3
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], atol=1e-5)


def test_a_run_with_other_weights_is_refused(speed: Any) -> None:
    from cpu.cells import check_agreement

    from vmoe_tools.command_line import CommandError

    for name, fine, far in (
        ("dense-ort-fp32", (4e-3, 9.0), (6e-3, 0.0)),
        ("dense-openvino-bf16", (9.0, 0.19), (0.0, 0.21)),
        ("dense-ort-int8", (9.0, 0.3), (0.0, 0.4)),
    ):
        check_agreement(name, *fine)
        for distance in (far, (math.nan, math.nan)):
            with pytest.raises(CommandError, match=f"{name} is not the same model"):
                check_agreement(name, *distance)


@pytest.mark.parametrize("name", ["command_line", "cpu.cells"])
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


def rows_of(printed: str) -> list[list[str]]:
    """The cells of a printed table, without its head."""
    return [line.strip("| ").split(" | ") for line in printed.splitlines()[2:] if line.startswith("|")]


def test_calls_of_two_installations_are_interleaved(other_installation: Path, capsys: Any) -> None:
    import installations

    options = ["--batch", "0", "1", "4", "--threads", "1", "--rounds", "3", "--processes", "2"]
    assert installations.main([str(other_installation), str(V1_BUNDLE), *options]) == 0
    out, err = capsys.readouterr()
    old, _, new = err.splitlines()[0].partition("; new: ")
    assert str(other_installation) in old and str(other_installation) not in new
    rows = rows_of(out)
    assert [row[0] for row in rows] == ["load", "batch 1", "batch 4"]
    for _, *numbers, spread, logits in rows:
        least, _, most = spread.partition("-")
        assert float(least) <= float(numbers[2]) <= float(most)
        assert logits == "1.000000"  # the same library


def test_ratios_of_installations_are_medians_over_pairs(speed: Any) -> None:
    import installations

    pairs = np.array([[[4.0, 2.0, 1.0, 0.0]], [[9.0, 3.0, 1.0, 0.2]], [[4.0, 1.0, 1.0, 0.1]]])
    *_, row, others = installations.summary([2], pairs)
    assert row == "| batch 2 | 2.000 | 1.000 | 3.000 | 2.000-4.000 | 1.000000 |"
    assert "took 10%" in others


def test_the_bench_and_a_bare_session_are_interleaved(
    speed: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import bench_overhead

    assert bench_overhead.main([str(V1_BUNDLE), "--batch", "1", "2", "--threads", "1", "--duration", "0.1"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert [row[0] for row in rows] == ["1", "2"]
    for _, bench, bare, ratio in rows:
        assert float(bench) / float(bare) == pytest.approx(float(ratio), rel=0.01)
    assert bench_overhead.main([str(tmp_path / "nothing.vmoe")]) == 1
    assert capsys.readouterr().err.startswith("bench_overhead.py: ")


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
