"""Check that long commands show their progress and the remaining time.

The progress is shown as a bar, or as lines that never repeat.
"""

from __future__ import annotations

import itertools
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_runs import QUICK, Vmoe

from vmoe_export import export_bundle
from vmoe_tools import output

pytestmark = pytest.mark.long

LINE = re.compile(r"([a-z0-9 ]+): ([0-9]+)%(?:, [0-9.,]+ images/s)?(, 0:[0-9]{2}:[0-9]{2} left)?")
TUNED = ("--tune", "--max-drop-in-accuracy", "10%", *QUICK)


@pytest.fixture
def images(mnist_images: dict[str, np.ndarray], tmp_path: Path) -> Path:
    np.savez(tmp_path / "digits.npz", **{name: mnist_images[name][:320] for name in ("images", "labels")})
    return tmp_path / "digits.npz"


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("command", "steps"),
    [
        ("export", ("comparing the graphs with the reference", "comparing with float32")),
        pytest.param("bench", ("search of at most 100 settings", "accuracy and routing"), marks=pytest.mark.slow),
        ("fewshot", ("features",)),
        pytest.param("report", ("accuracy and routing",), marks=pytest.mark.slow),
    ],
)
def test_lines_in_a_file_are_all_new_and_say_the_time_left(
    command: str,
    steps: tuple[str, ...],
    mnist_image_bundle: Path,
    mnist_checkpoint: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    vmoe: Vmoe,
) -> None:
    words: dict[str, tuple[object, ...]] = {
        "export": (mnist_checkpoint, "--precision", "int8", "--images", images, "-o", tmp_path / "x.vmoe"),
        "bench": (mnist_image_bundle, "--images", images, *TUNED),
        "fewshot": (tmp_path / "features.vmoe", "--images", images, "-o", tmp_path / "head.npz"),
        "report": (mnist_image_bundle, "--images", images, "--capacity", "0.1", "-o", tmp_path / "r.html", *QUICK),
    }
    if command == "fewshot":
        export_bundle(mnist_checkpoint, tmp_path / "features.vmoe", output="features", validate=False)
    monkeypatch.setattr(output, "LINE_SECONDS", 0.001)
    lines = vmoe.run(command, *words[command])[1].splitlines()
    assert all(line != after for line, after in itertools.pairwise(lines))
    found = [match for line in lines if (match := LINE.fullmatch(line))]
    for step in steps:
        shares = [int(match[2]) for match in found if match[1] == step]
        assert len(set(shares)) > 2 and shares == sorted(shares) and shares[-1] <= 100
    assert any(match[3] for match in found if match[1] == steps[0])
    if command == "report":
        assert (lines[0], lines[-1]) == ("loading", "speed: 100%, preparing the results")
        assert vmoe.run(command, *words[command], "-q") == ("", "")


def test_a_terminal_shows_a_bar_for_each_step_of_an_export(mnist_checkpoint: Path, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    words = ("export", mnist_checkpoint, "--precision", "int8", "-o", tmp_path / "x.vmoe")
    command = [sys.executable, "-m", "vmoe_tools", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=slave, env={**os.environ, "TERM": "xterm"}) as process:
        os.close(slave)
        shown = b""
        with os.fdopen(master, "rb", buffering=0) as terminal:
            while part := _read(terminal.fileno()):
                shown += part
    assert process.returncode == 0
    for step in ("writing the weights", "reading the weights back", "comparing the graphs", "comparing with float32"):
        assert re.search(rf"{step}.*-:--:--".encode(), shown), shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # Linux raises it once the last writer has closed the terminal
        return b""
