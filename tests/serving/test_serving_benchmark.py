"""Run the serving benchmark and the soak test against the C++ service.

Both must report their measurements.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cpp_http
import pytest
import sdk_build
import soak

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "serving.py"
TEST_DATA = Path(__file__).parents[2] / "samples" / "mnist" / "test_data.npz"


def measured(program: Path, command: list[str], bundle: Path, folder: Path, *options: str) -> tuple[str, Any]:
    """Run a program. Return its output and the report that it wrote."""
    words = [*command, bundle, "--images", TEST_DATA, "--service", cpp_http.program(), "--threads", "1", "--slo-ms", "200"]
    words += ["--profile", "c0.1-k1", "--profile", "c1.05-k2", "-o", folder, *options]
    said = sdk_build.built(sys.executable, program, *words)
    (report,) = folder.glob("*.json")
    return said, json.loads(report.read_text())


@pytest.mark.slow
def test_traces_are_replayed_in_every_mode(mnist_image_bundle: Path, tmp_path: Path) -> None:
    options = ("--trace", "day", "--seconds", "1.5", "--saturate-seconds", "0.7", "--load", "0.3")
    _, report = measured(PROGRAM, ["traces"], mnist_image_bundle, tmp_path, *options)
    low, high = report["points"]
    assert (low["setting"], high["setting"]) == ("c0.1-k1", "c1.05-k2") and low["accuracy"] < high["accuracy"]
    assert [row["mode"] for row in report["rows"]] == ["elastic", "fixed high", "fixed low"]
    for row in report["rows"]:
        fixed = {"fixed high": {"c1.05-k2"}, "fixed low": {"c0.1-k1"}}.get(row["mode"], {"c0.1-k1", "c1.05-k2"})
        assert set(row["settings"]) <= fixed and sum(row["settings"].values()) == pytest.approx(1)
        assert 0 <= row["in_time"] <= 1 and 0 < row["p50_ms"] <= row["p99_ms"]
    assert (tmp_path / "traces.png").stat().st_size > 10_000


@pytest.mark.slow
def test_saturation_is_compared_with_the_engine(mnist_image_bundle: Path, tmp_path: Path) -> None:
    _, report = measured(PROGRAM, ["saturation"], mnist_image_bundle, tmp_path, "--seconds", "0.25", "--rounds", "2")
    assert [row["setting"] for row in report["rows"]] == ["c0.1-k1", "c1.05-k2"]
    for row in report["rows"]:
        assert row["least"] <= row["ratio"] <= row["most"] and 1 <= row["batch"] <= 16
        assert min(row["least"], row["alone_ms"], row["call_ms"], row["generator_ms"]) > 0


def test_a_soak_finds_nothing_in_a_service(mnist_image_bundle: Path, tmp_path: Path) -> None:
    options = ("--requests", "600", "--seconds", "60", "--max-body", "1")
    text, report = measured(Path(soak.__file__), [], mnist_image_bundle, tmp_path, *options)
    assert report["wrong"] == report["lost"] == {} and report["images_left"] == 0, text
    sent = {kind["kind"]: kind["sent"] for kind in report["kinds"]}
    assert 600 <= sum(sent.values()) < 700 and sent["good"] > 300 and len(sent) == 7
    assert {row["status"] for row in report["refusals"]} >= {400, 413} and report["memory"][0] > 1 << 20
