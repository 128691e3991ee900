"""What `vmoe-inspect --images` can't do, what isn't installed, and Ctrl-C at any moment."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_changes import BUNDLES
from PIL import Image
from terminal import default_signals, interrupted
from test_inspect import run

from vmoe_tools.inspect import image_command
from vmoe_tools.inspect.cli import main

# What can't be done


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--labels", "NPZ"], 2, "--labels is about images that the bundle is run on, and there is no --images"),
        (["--out", "x"], 2, "--out is about images"),
        (["--profile", ""], 2, "--profile is about images"),
        (["--with", "BUNDLE"], 2, "--with is about images"),
        (["--interference", "3"], 2, "--interference is about images"),
        (["--threads", "1"], 2, "--threads is about images"),
        (["--images", "NPZ", "--list-tensors"], 2, "--list-tensors belongs to the card"),
        (["--images", "NPZ", "--interference", "0"], 2, "must be a whole number from 1"),
        (["--images", "NPZ", "--profile", "c9-k1"], 2, "the capacity ratio 9 is larger"),
        (["--images", "NPZ", "--profile", "best"], 2, "there is no profile 'best'"),
        (["--images", "NPZ", "--with", "SOFT"], 2, "is another model than"),
        (["--images", "NPZ", "--with", "nothing.vmoe"], 1, "no such folder"),
        (["--images", "NPZ", "--backend", "tensorflow"], 2, "invalid choice"),
        (["--images", "NPZ", "--labels", "NPZ"], 1, "is none"),
        (["--images", "EMPTY"], 1, "has no pictures"),
        (["--images", "nothing.npz"], 1, "No such file"),
        (["--images", "CORRUPT"], 1, "seven.png"),
        (["--images", "NOTNPZ"], 1, "is not a readable npz file"),
        (["--images", "SHAPE"], 1, "images have shape"),
        (["--images", "NAN"], 1, "labels go from 0 to 99"),
        (["--images", "FEW"], 1, "a group needs 16 images, and there are 15"),
        (["--images", "NONE"], 1, "a group needs 16 images, and there are 0"),
        (["--images", "GROUP", "--interference", "3"], 1, "other neighbours need two batches of 16 images"),
        (["--images", "NPZ", "--out", "NPZ"], 1, "is there already and no folder"),
        (["--images", "NPZ", "--out", "no/such/folder"], 1, "there is no folder"),
        (["--images", "NPZ", "--out", "BUNDLE"], 1, "is a bundle"),
        (["--images", "NPZ", "--out", "BUNDLE/pictures"], 1, "lies in what this command reads"),
        (["--images", "CORRUPT", "--out", "CORRUPT/x"], 1, "lies in what this command reads"),
        (["--images", "NPZ", "--json", "NPZ"], 1, "is used by this command"),
        (["--images", "NPZ", "--out", "LOOP"], 1, "is there already and no folder"),
    ],
    ids=str,
)
def test_what_can_not_be_done_is_one_sentence(
    *,
    words: list[str],
    code: int,
    says: str,
    mnist_bundle: Path,
    mnist_images: dict[str, np.ndarray],
    mnist_digits: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images = mnist_images["images"]
    for name, arrays in {
        "SHAPE": {"images": np.zeros((16, 9, 9), np.uint8)},
        "NAN": {"images": images[:16], "labels": np.linspace(0, 99, 16).astype(int)},
        "FEW": {"images": images[:15]},
        "NONE": {"images": images[:0]},
        "GROUP": {"images": images[:31]},
    }.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
    (tmp_path / "NOTNPZ.npz").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "CORRUPT").mkdir()
    for index in range(16):
        (tmp_path / "CORRUPT" / f"{index}-seven.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "LOOP").symlink_to(tmp_path / "LOOP")
    paths = {path.stem: path for path in tmp_path.iterdir()} | {"NPZ": mnist_digits, "SOFT": BUNDLES / "v3-soft"}
    paths |= {"BUNDLE": mnist_bundle, "BUNDLE/pictures": mnist_bundle / "pictures", "CORRUPT/x": tmp_path / "CORRUPT" / "x"}
    before = sorted(tmp_path.rglob("*"))
    lines, complaints = run(capsys, mnist_bundle, *(paths.get(word, word) for word in words), "-q", code=code)
    assert lines == [] and len(complaints) == 1
    assert complaints[0].startswith("vmoe-inspect: ") and says in complaints[0]
    assert sorted(tmp_path.rglob("*")) == before and not (mnist_bundle / "pictures").exists()


@pytest.fixture(scope="module")
def few_digits(tmp_path_factory: pytest.TempPathFactory, mnist_images: dict[str, np.ndarray]) -> Path:
    """Three digits: pictures of them are small."""
    path = tmp_path_factory.mktemp("few") / "digits.npz"
    np.savez(path, **{name: array[:3] for name, array in mnist_images.items()})
    return path


@pytest.mark.parametrize(
    ("missing", "words", "says"),
    [
        ("rich", [], "needs rich"),
        ("matplotlib", ["--out", "pictures"], "--out needs matplotlib"),
        (None, ["-q", "--json", "report.json"], ""),
    ],
)
def test_what_is_not_installed_is_named_and_not_needed_without(
    missing: str | None, words: list[str], says: str, mnist_image_bundle: Path, mnist_digits: Path, tmp_path: Path
) -> None:
    gone = ("rich", "matplotlib") if missing is None else (missing,)
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({gone!r}))\n"
        "from vmoe_tools.inspect.cli import main\ncode = main()\n"
        "assert not {'torch', 'onnx', 'vmoe_export'} & set(sys.modules)\nsys.exit(code)"
    )
    command = [sys.executable, "-c", script, str(mnist_image_bundle), "--images", str(mnist_digits), *words]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    if missing is None:
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
        assert json.loads((tmp_path / "report.json").read_text())["on_images"]["images"] == 70
        return
    assert ran.returncode == 1 and ran.stderr.count("\n") == 1
    assert says in ran.stderr and "pip install 'vmoe-export[bench]'" in ran.stderr


def test_a_terminal_sees_how_far_it_is(
    mnist_image_bundle: Path, mnist_digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main([str(mnist_image_bundle), "--images", str(mnist_digits), "--interference", "2"]) == 0
    assert "images/s" in terminal.getvalue() and "neighbours" in terminal.getvalue()


def test_pictures_that_can_not_be_written_are_one_sentence(
    mnist_image_bundle: Path, few_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out" / "experts.png").mkdir(parents=True)
    lines, complaints = run(capsys, mnist_image_bundle, "--images", few_digits, "--out", tmp_path / "out", "-q", code=1)
    assert lines == [] and complaints == [f"vmoe-inspect: {tmp_path}/out/experts.png can't be written: Is a directory"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["experts.png", "patches.png"]


# Ctrl-C


@pytest.fixture
def long_run(mnist_image_bundle: Path, mnist_digits: Path, tmp_path: Path) -> list[str]:
    """A command line that takes a minute or more."""
    words = [mnist_image_bundle, "--images", mnist_digits, "--interference", 2_000]
    return [*map(str, words), "--out", str(tmp_path / "pictures"), "--json", str(tmp_path / "report.json")]


@pytest.mark.parametrize("seconds", [0.2, 0.5, 0.8, 1.2, 2.0])
def test_ctrl_c_at_any_moment_leaves_nothing(seconds: float, long_run: list[str], tmp_path: Path) -> None:
    code, said = interrupted([sys.executable, "-m", "vmoe_tools.inspect", *long_run], seconds)
    assert "Traceback" not in said
    # Python itself ends by the signal where it was starting, or making a class, when it came.
    assert code in (130, -signal.SIGINT)
    if code == 130:
        assert said == "vmoe-inspect: interrupted\n"
    assert list(tmp_path.iterdir()) == []


INTERRUPTED = """
import signal, sys
from matplotlib.figure import Figure
from vmoe_tools.inspect.cli import main
saved, save = [], Figure.savefig
def interrupt(figure, target, **options):
    save(figure, target, **options)
    if len(saved) == 1:
        signal.raise_signal(signal.SIGINT)
    saved.append(target)
Figure.savefig = interrupt
sys.exit(main(sys.argv[1:]))
"""


def test_ctrl_c_while_a_picture_is_drawn_leaves_whole_ones(
    mnist_image_bundle: Path, few_digits: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", INTERRUPTED, mnist_image_bundle, "--images", few_digits, "--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, preexec_fn=default_signals)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "vmoe-inspect: interrupted\n")
    left = sorted((tmp_path / "out").iterdir())
    assert len(left) == 2
    for path in left:
        with Image.open(path) as whole:
            whole.load()


def test_a_bundle_that_is_replaced_meanwhile_is_one_sentence_or_the_new_one(
    mnist_image_bundle: Path, mnist_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    bundle = tmp_path / "own.vmoe"
    shutil.copytree(mnist_image_bundle, bundle)
    run_images = image_command.run_images

    def gone(*arguments: Any) -> Any:
        shutil.rmtree(bundle)
        return run_images(*arguments)

    monkeypatch.setattr(image_command, "run_images", gone)
    lines, complaints = run(capsys, bundle, "--images", mnist_digits, "--json", tmp_path / "report.json", code=1)
    assert lines == [] and len(complaints) == 1 and str(bundle) in complaints[0]
    assert not (tmp_path / "report.json").exists()
