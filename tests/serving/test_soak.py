"""The soak finds nothing in a service that is right, and the faults of one that isn't."""

from __future__ import annotations

import doctest
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cpp_http
import pytest
import soak

FAULTY = Path(__file__).parent / "faulty_service.py"
TEST_DATA = Path(__file__).parents[2] / "samples" / "mnist" / "test_data.npz"
SEVEN = TEST_DATA.with_name("seven.png")


def words(bundle: Path, folder: Path, service: str | Path, *options: str) -> list[str]:
    """A command line of the program, which writes its report to the folder."""
    given = [bundle, "--images", TEST_DATA, "--service", service, "--settings", "c0.1-k1", "c1.05-k2", "--threads", "1"]
    return list(map(str, [*given, "--slo-ms", "200", "-o", folder, *options]))


def report_in(folder: Path) -> Any:
    return json.loads((folder / "soak.json").read_text())


@pytest.mark.parametrize("service", ["ray", "c++"])
def test_a_soak_finds_nothing_in_a_service(service: str, mnist_image_bundle: Path, tmp_path: Path) -> None:
    if service == "ray":
        pytest.importorskip("ray", reason="Ray is not installed")
    program = "ray" if service == "ray" else cpp_http.program()
    command = words(mnist_image_bundle, tmp_path, program, "--requests", "600", "--seconds", "60", "--max-body", "1")
    done = subprocess.run([sys.executable, soak.__file__, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = report_in(tmp_path)
    assert report["wrong"] == report["lost"] == {} and report["images_left"] == 0
    sent = {kind["kind"]: kind["sent"] for kind in report["kinds"]}
    assert 600 <= sum(sent.values()) < 700 and sent["good"] > 300 and len(sent) == 7
    assert {row["status"] for row in report["refusals"]} >= {400, 413} and report["samples"]
    *processes, together = report["memory"]
    assert together["name"] == "all processes" and together["first"] > 1 << 20
    assert len({row["pid"] for row in processes}) == len(processes) >= 1
    for row in processes:
        assert f"| {row['name']} | {row['pid']} | " in done.stdout
    if service == "ray":
        names = " ".join(row["name"] for row in processes)
        assert "gcs_server" in names and "raylet" in names and "ray::" in names


def test_one_picture_is_enough(mnist_image_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    shutil.copy(SEVEN, tmp_path / "pictures")
    few = ("--images", str(tmp_path / "pictures"), "--requests", "60", "--max-batch", "1")
    assert soak.main(words(mnist_image_bundle, tmp_path, cpp_http.program(), *few)) == 0
    report = report_in(tmp_path)
    assert report["wrong"] == report["lost"] == {}


def test_a_soak_finds_the_faults_of_a_service(
    mnist_image_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--requests", "300", "--seconds", "20", "--max-body", "1")
    assert soak.main(words(mnist_image_bundle, tmp_path, FAULTY, *options)) == 1
    report = report_in(tmp_path)
    wrong, lost = " ".join(report["wrong"]), " ".join(report["lost"])
    assert "good: other bits at c1.05-k2" in wrong and "good: served at 'c1.05-k2' instead of c0.1-k1" in wrong
    assert "malformed: " in wrong and ": 200 '' instead of 400 and a sentence" in wrong
    assert lost.startswith("good") or " good" in lost
    assert f"wrong: {sum(report['wrong'].values())}, lost: {sum(report['lost'].values())}" in capsys.readouterr().out


def test_memory_is_told_for_each_process() -> None:
    samples = [{7: 100, 8: 50}, {7: 100, 8: 70}, {7: 120, 8: 70, 9: 1}] * 2 + [{7: 110, 9: 2}, {7: 110, 9: 3}]
    rows = soak.memory_growth(samples, {7: "raylet", 8: "gone", 9: "late"})
    assert [(row["name"], row["pid"], row["first"], row["last"]) for row in rows] == [
        ("raylet", 7, 100, 110),
        ("gone", 8, 60, None),
        ("late", 9, None, 2.5),
        ("all processes", None, 160, 112.5),
    ]
    assert (rows[0]["growth"], rows[0]["share"]) == (10, 0.1)


def test_examples_in_docstrings_hold() -> None:
    results = doctest.testmod(soak)
    assert results.attempted > 0 and results.failed == 0
