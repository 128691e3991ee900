"""Each benchmark of this machine's CPU runs on a tiny model, and its peers compute what the engine does."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

pytestmark = pytest.mark.long


def test_every_runtime_is_timed_beside_the_engine_and_gives_its_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import speed
    from cpu import timing
    from cpu.runs import RUNS

    monkeypatch.setattr(timing, "_PAUSE_SECONDS", 0)
    points, _ = speed.run(speed.parse_arguments(["--quick", "-o", str(tmp_path)]))
    left_out = {"dense-openvino-int8"} if "Left out" in capsys.readouterr().out else set()
    assert {point["run"] for point in points} == set(RUNS) - left_out
    for point in points:
        assert math.isfinite(point["ms"]) and point["lower"] <= point["ms"] <= point["upper"]
        exact = RUNS[point["run"]].precision == "fp32"
        assert point["logits_difference"] <= 1e-5 if exact else 0 < point["relative_difference"] <= 0.05, point["run"]


def test_two_engines_are_timed_alone_and_after_one_another(
    mnist_bundle: Path, mnist_image_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import neighbours

    options = ["--batch", "16", "--threads", "1", "--rounds", "1"]
    assert neighbours.main([str(mnist_bundle), str(mnist_image_bundle), *options]) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0].split("spin=")[1] for row in rows] == ["True", "True", "False", "False"]
    for _, alone, after, ratio in rows:
        assert float(ratio) == pytest.approx(float(after) / float(alone), rel=0.05)
