"""Check that each CPU benchmark runs on a tiny model, and that the peers' outputs agree with the engine's.

Each peer runs in a separate process, so a peer that crashes fails only its own test.
"""

from __future__ import annotations

import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import speed
from command_line import missing
from cpu import timing
from cpu.int8_peers import NNCF_PACKAGES
from cpu.runs import RUNS

pytestmark = pytest.mark.long

PEERS = [name for name in RUNS if not name.startswith("engine-")]
ENGINES = [name for name in RUNS if name.startswith("engine-")]
FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(["torch", "openvino", "vmoe_export"])  # imported once, before processes are forked


def timed(names: list[str], folder: Path) -> list[dict[str, Any]]:
    """Run `speed.py --quick` for the runs in `names`, and return the points that it measures."""
    timing.PAUSE_SECONDS = 0.0
    return speed.run(speed.parse_arguments(["--quick", "-o", str(folder), "--runs", *names]))[0]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder for the models to time. The first test writes the models."""
    return tmp_path_factory.mktemp("speed")


@pytest.mark.sample(1)
@pytest.mark.parametrize("names", [ENGINES, *([name] for name in PEERS)], ids=lambda names: " ".join(names[:1]))
def test_every_runtime_is_timed_beside_the_engine_and_gives_its_logits(names: list[str], models: Path) -> None:
    if "dense-openvino-int8" in names and (reason := missing(*NNCF_PACKAGES)):
        pytest.skip(reason)
    with ProcessPoolExecutor(1, FORKING) as own_process:  # a separate process, because a peer may crash
        points = own_process.submit(timed, names, models).result()
    assert {point["run"] for point in points} == set(names)
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
    assert all(float(number) > 0 for row in rows for number in row[1:])
