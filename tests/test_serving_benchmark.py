"""The serving benchmark: its traces have the rates that they say, and its numbers are those of what was answered."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TEST_DATA = Path(__file__).parents[1] / "samples" / "mnist" / "test_data.npz"


@pytest.fixture(scope="module")
def serving() -> Iterator[Any]:
    """Imports a module of the benchmark; its folder is on the path, as it is when the command runs."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_traces_have_their_rates_and_are_the_same_again(serving: Any) -> None:
    traces = serving("serving.traces")
    means = {"poisson": 1.0, "bursts": 0.5, "day": 0.6}
    for name, trace in traces.TRACES.items():
        times = trace(500.0, 60.0, 1)
        assert (np.diff(times) >= 0).all() and times[0] >= 0 and times[-1] < 60
        assert len(times) / (500 * 60) == pytest.approx(means[name], rel=0.05)
        np.testing.assert_array_equal(times, trace(500.0, 60.0, 1))
        assert len(trace(500.0, 60.0, 2)) != len(times)
    phase = traces.bursts(500.0, 60.0, 1) % (traces.BURST + traces.CALM)
    in_bursts = np.count_nonzero(phase >= traces.CALM) / traces.BURST
    assert in_bursts / (np.count_nonzero(phase < traces.CALM) / traces.CALM) == pytest.approx(4, rel=0.15)
    hours = np.histogram(traces.day(500.0, 60.0, 1), bins=6, range=(0, 60))[0]
    assert hours[0] < hours[1] < hours[2] and hours[5] < hours[4] < hours[3] and hours[2] > 3 * hours[0]


def test_the_benchmark_replays_every_trace_in_every_mode(
    serving: Any, mnist_image_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = importlib.util.spec_from_file_location("serving_command", BENCHMARKS / "serving.py")
    assert command is not None and command.loader is not None
    module = importlib.util.module_from_spec(command)
    command.loader.exec_module(module)
    options = ["--images", str(TEST_DATA), "--settings", "c0.1-k1", "c1.05-k2", "--seconds", "1", "--load", "0.2"]
    assert module.main([str(mnist_image_bundle), *options, "--threads", "1", "-o", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "serving.json").read_text())
    assert [(row["trace"], row["mode"]) for row in report["rows"]] == [
        (trace, mode) for trace in ("poisson", "bursts", "day") for mode in ("elastic", "fixed high", "fixed low")
    ]
    # Where the low one happens to be timed no faster than the high one, that one is left alone.
    low, *_, high = 2 * list(report["images_per_second"])
    assert high == "c1.05-k2"
    with np.load(TEST_DATA) as data:
        everything = len(data["labels"])
    for row in report["rows"]:
        settings = {"fixed high": {high}, "fixed low": {low}}.get(row["mode"], {low, high})
        assert set(row["settings"]) <= settings and sum(row["settings"].values()) == pytest.approx(1)
        assert 0 <= row["in_time"] <= 1 and row["refused"] == 0 and 0 < row["p50_ms"] <= row["p99_ms"]
        if row["mode"] == "fixed high" and row["requests"] >= everything:
            assert row["accuracy"] == pytest.approx(0.976, abs=0.02)
    assert report["requests_per_second"] == pytest.approx(0.2 * report["images_per_second"][low])
    assert (tmp_path / "serving.md").read_text().strip() == capsys.readouterr().out.strip()
    assert (tmp_path / "serving.png").stat().st_size > 10_000
    assert module.main(["absent.vmoe", "--images", str(TEST_DATA)]) == 1
    assert "absent.vmoe is not a bundle" in capsys.readouterr().err
