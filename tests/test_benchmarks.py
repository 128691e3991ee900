"""The speed benchmark on a tiny model: contenders agree, and its figures are what they say."""

from __future__ import annotations

import doctest
import importlib
import json
import math
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
BF16_TOLERANCE = 0.02
POINT_NUMBERS = ("ms", "images_per_second", "flops", "flop_floor_ms", "memory_floor_ms", "gain_over_dense")


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
    """The folder of a quick run, and its exit code."""
    folder = tmp_path_factory.mktemp("speed")
    return folder, speed.main(["--quick", "-o", str(folder)])


@pytest.fixture(scope="module")
def report(quick: tuple[Path, int]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((quick[0] / "speed.json").read_text())
    return content


def test_every_contender_is_timed_at_every_setting(report: dict[str, Any]) -> None:
    from cpu.contenders import CONTENDERS

    timed = {(p["contender"], p["batch"], p["ck"]) for p in report["points"]}
    cks = {name: (0.3, 1.05, 2.1) if c.sparse else (None,) for name, c in CONTENDERS.items()}
    assert timed == {(name, batch, ck) for name, settings in cks.items() for batch in (1, 2) for ck in settings}
    assert all(p["repeats"] == 3 for p in report["points"])


def test_all_contenders_give_the_same_logits(report: dict[str, Any]) -> None:
    from cpu.contenders import CONTENDERS

    for p in report["points"]:
        contender = CONTENDERS[p["contender"]]
        bf16 = contender.expert_bf16 or contender.shared_bf16
        assert p["logits_difference"] <= (BF16_TOLERANCE if bf16 else 1e-5), (p["contender"], p["ck"])
    assert any(p["logits_difference"] > 0 for p in report["points"])


def test_figures_fit_together(report: dict[str, Any]) -> None:
    for p in report["points"]:
        assert all(math.isfinite(p[name]) and p[name] > 0 for name in POINT_NUMBERS), p
        assert p["images_per_second"] == pytest.approx(1e3 * p["batch"] / p["ms"])
        assert p["gain_over_dense"] == pytest.approx(p["from_sparsity"] * p["from_kernel"])
        if p["contender"] == "dense-ort":
            assert (p["gain_over_dense"], p["from_sparsity"]) == (1, 1)


def test_more_capacity_keeps_more_pairs_and_costs_more_flops(report: dict[str, Any]) -> None:
    for batch in (1, 2):
        engine = [p for p in report["points"] if (p["contender"], p["batch"]) == ("engine-fp32", batch)]
        engine.sort(key=lambda p: p["ck"])
        for less, more in pairwise(engine):
            assert less["kept_pairs"] < more["kept_pairs"] <= more["asked_pairs"]
            assert less["flops"] < more["flops"]
            assert less["flop_floor_ms"] < more["flop_floor_ms"]


def test_fits_switches_and_memory_are_reported(report: dict[str, Any]) -> None:
    assert {(fit["contender"], fit["batch"]) for fit in report["fits"]} == {
        (name, batch) for name in ("engine-fp32", "engine-bf16") for batch in (1, 2)
    }
    assert all(len(fit["kept_pairs"]) == 3 and fit["r_squared"] <= 1 for fit in report["fits"])
    assert {switch["contender"] for switch in report["switches"]} == {"engine-fp32", "engine-bf16"}
    assert [m["bundle"] for m in report["memory"]] == ["tiny", "tiny-bf16"]
    assert all(0 < m["before"]["anonymous"] < m["first"]["anonymous"] for m in report["memory"])


def test_layers_alone_are_measured_where_there_is_an_op_library(report: dict[str, Any]) -> None:
    if report["op_library"] is None:
        assert report["kernels"] == report["routing"] == []
        return
    assert [(k["precision"], k["batch"]) for k in report["kernels"]] == [
        ("fp32", 1),
        ("fp32", 32),
        ("bf16", 1),
        ("bf16", 32),
    ]
    many = report["kernels"][1]
    assert many["places"] >= 32 * 50  # one for every token of every image
    assert many["flops"] == pytest.approx(many["places"] * 4 * 64 * 128 / (many["ms"] / 1e3))
    for cost in report["routing"]:
        others = sum(ms for name, ms in cost["op_ms"].items() if name != "VmoeExpertMlp")
        assert cost["routing_ms"] == pytest.approx(others)


def test_table_and_picture_show_the_report(quick: tuple[Path, int], report: dict[str, Any]) -> None:
    folder, _ = quick
    text = (folder / "speed.md").read_text()
    for p in report["points"]:
        assert f"| {p['title']} |" in text
        assert f"{p['ms'] / p['batch']:.2f}" in text
    assert "## tiny, batch 2, 1 threads" in text
    assert (folder / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_exit_code_says_whether_the_run_is_void(quick: tuple[Path, int], report: dict[str, Any]) -> None:
    assert quick[1] == (1 if report["void"] else 0)


def test_a_slow_peer_voids_the_run(speed: Any) -> None:
    from cpu.known_machines import find_machine, load_table, slow_peers

    zen5 = find_machine(load_table(), {"vendor": "AuthenticAMD", "family": 26, "model": 2, "name": "AMD EPYC"})
    assert zen5 is not None
    key = "b16 batch 1 threads 2 dense-ort"
    assert slow_peers(zen5, {key: 1.09 * zen5["peers_ms"][key]}) == []
    (sentence,) = slow_peers(zen5, {key: 1.11 * zen5["peers_ms"][key], "unheard of": 1e9})
    assert sentence.startswith(f"{key} took 104.3 ms an image")
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
    graphs = sorted((quick[0] / "work").glob("tiny-careful-batch*.onnx"))
    assert len(graphs) == 6
    for path in graphs:
        model = onnx.load(str(path), load_external_data=False)
        assert not model.functions
        assert {node.domain for node in model.graph.node} == {""}


def test_all_forms_of_the_dense_peer_agree(quick: tuple[Path, int]) -> None:
    from cpu.cells import make_cell
    from cpu.contenders import dense_graph
    from cpu.models import prepare
    from cpu.peer_graphs import FORMS
    from cpu.runtimes import ort_session

    work = quick[0] / "work"
    cell = make_cell(prepare("tiny", work), 2, 1, [], work)
    images = cell.model.images(2)
    results = [ort_session(dense_graph(cell, form), 1).run(["logits"], {"image": images})[0] for form in FORMS]
    assert len(results) == 6
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], atol=1e-5)


def test_a_contender_with_other_weights_is_refused(speed: Any) -> None:
    from cpu.cells import check_agreement
    from cpu.errors import BenchmarkError

    check_agreement("peer", [0.0, 9e-4])
    with pytest.raises(BenchmarkError, match="peer is not the same model"):
        check_agreement("peer", [0.0, 2e-3])
    with pytest.raises(BenchmarkError, match="peer is not the same model"):
        check_agreement("peer", [0.0, math.nan, 0.0])


def test_kept_pairs_and_experts_are_counted_from_slots(speed: Any) -> None:
    from cpu.cells import Kept, count_kept

    # Two layers of one group of three tokens; two places per expert: slots 0 and 1 are expert 0's, 2 and 3 expert 1's.
    slots = [np.array([[[0], [1], [-1]]]), np.array([[[3], [-1], [0]]])]
    assert count_kept(slots, places=2) == Kept(kept=4, asked=6, used_experts=3)


@pytest.mark.parametrize("name", ["known_machines", "models", "points", "timing"])
def test_examples_in_docstrings_hold(speed: Any, name: str) -> None:
    results = doctest.testmod(importlib.import_module(f"cpu.{name}"))
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize("arguments", [["--batch", "0"], ["--ck", "9"], ["--model", "b17"], ["--contenders", "nobody"]])
def test_a_wrong_option_is_refused(speed: Any, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        speed.main(arguments)
    assert stopped.value.code == 2
