"""What tools print is safe for a terminal, fits its encoding, and has no traceback where the command line was wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MNIST = Path(__file__).parents[2] / "samples" / "mnist"


def run(tool: str, *words: object, encoding: str = "utf-8") -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name(tool), *map(str, words)]
    variables = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "200"}
    return subprocess.run(command, env=variables, capture_output=True, encoding=encoding, check=False)


@pytest.mark.parametrize(
    ("tool", "more"),
    [
        ("vmoe-export", ()),
        ("vmoe-run", ("x.png",)),
        ("vmoe-bench", ()),
        ("vmoe-build", ()),
        ("vmoe-inspect", ()),
        ("vmoe-report", ("--images", "x.npz", "-o", "x.html")),
    ],
)
def test_names_do_not_steer_the_terminal(tool: str, more: tuple[str, ...], tmp_path: Path) -> None:
    done = run(tool, tmp_path / "a\x1b[31mb\nc", *more)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "\x1b" not in done.stderr
    assert r"a\x1b[31mb c" in done.stderr


@pytest.mark.parametrize(
    ("tool", "words"),
    [
        ("vmoe-export", ("samples", "--capacity", "99")),
        ("vmoe-export", ("samples", "--group", "odd")),
        ("vmoe-run", ("bundle", "x.png", "--profile", "odd")),
        ("vmoe-bench", ("bundle", "--profile", "c99-k1")),
    ],
)
def test_a_wrong_option_gets_no_traceback(tool: str, words: tuple[str, ...], mnist_image_bundle: Path) -> None:
    places = {"samples": MNIST / "vmoe_mnist", "bundle": mnist_image_bundle}
    done = run(tool, *(places.get(word, word) for word in words), "-v")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_another_error_still_gets_one() -> None:
    done = run("vmoe-export", "absent", "-v")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_text_that_an_encoding_lacks_is_escaped(mnist_image_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "named.vmoe"
    shutil.copytree(mnist_image_bundle, bundle)
    raw = json.loads((bundle / "manifest.json").read_text())
    names = ["né", *map(str, range(1, 9)), "九"]
    (bundle / "manifest.json").write_text(json.dumps({**raw, "class_names": names}))
    done = run("vmoe-run", bundle, MNIST / "seven.png", "--top", 10, encoding="latin-1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "  né\n" in done.stdout
    assert "  \\u4e5d\n" in done.stdout
