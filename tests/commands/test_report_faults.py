"""vmoe-report: what can't be done is one sentence, and a page that was there before is left alone."""

from __future__ import annotations

import runpy
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from terminal import interrupted
from test_bench import QUICK

from vmoe_tools.report import cli, collect

BUNDLES = Path(__file__).parents[1] / "data" / "bundles"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, mnist_images: dict[str, np.ndarray]) -> Path:
    """The first 256 test images with their labels."""
    path = tmp_path_factory.mktemp("images") / "digits.npz"
    np.savez(path, images=mnist_images["images"][:256], labels=mnist_images["labels"][:256])
    return path


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["BUNDLE", "-o", "OUT"], 2, "required: --images"),
        (["BUNDLE", "--images", "NPZ"], 2, "required: -o/--out"),
        (["BUNDLE", "--images", "NPZ", "-o", "r.pdf"], 2, "must end in .html"),
        (["BUNDLE", "--images", "NPZ", "-o", "OUT", "--json", "OUT"], 2, "--out and --json are both"),
        (["BUNDLE", "--images", "NPZ", "-o", "no/such/r.html"], 1, "there is no folder no/such"),
        (["BUNDLE", "--images", "NPZ", "-o", "FOLDER.html"], 1, "no plain file"),
        (["BUNDLE", "--images", "NPZ", "-o", "OUT", "--profile", "odd"], 2, "there is no profile 'odd'"),
        (["BUNDLE", "--images", "NPZ", "-o", "OUT", "--sweep", "9"], 2, "--sweep at 9"),
        (["BUNDLE", "--images", "NPZ", "-o", "OUT", "--curves", "fifo"], 2, "--curves"),
        (["BUNDLE", "--images", "NPZ", "-o", "OUT", "--samples", "0"], 2, "whole number from 1"),
        (["BUNDLE", "--images", "EMPTY", "-o", "OUT"], 1, "has no pictures"),
        (["BUNDLE", "--images", "CORRUPT", "-o", "OUT"], 1, "a.png"),
        (["BUNDLE", "--images", "BROKEN", "-o", "OUT"], 1, "is not a readable npz file"),
        (["BUNDLE", "--images", "FEW", "-o", "OUT", "--batch-size", "64"], 1, "a batch needs 64 images"),
        (["BUNDLE", "--images", "absent.npz", "-o", "OUT"], 1, "absent.npz"),
        (["BUNDLE", "OTHER", "--images", "NPZ", "-o", "OUT"], 2, "is another model than"),
        (["BUNDLE", "--compare", "DENSE", "--images", "NPZ", "-o", "OUT"], 2, "can't be compared"),
        (["DENSE", "--images", "NPZ", "-o", "OUT"], 2, "the bundle is a dense ViT, which has none"),
        (["SOFT", "--images", "NPZ", "-o", "OUT"], 2, "the bundle is a Soft MoE, which has none"),
        (["absent.vmoe", "--images", "NPZ", "-o", "OUT"], 1, "absent.vmoe"),
    ],
    ids=str,
)
def test_what_can_not_be_done_is_one_sentence(
    *,
    words: list[str],
    code: int,
    says: str,
    mnist_image_bundle: Path,
    mnist_bundle: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with np.load(images) as data:
        np.savez(tmp_path / "few.npz", images=data["images"][:8])
    for folder in ("empty", "corrupt", "folder.html"):
        (tmp_path / folder).mkdir()
    (tmp_path / "corrupt" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 but no more")
    (tmp_path / "out.html").write_text("before")
    paths = {
        "BUNDLE": mnist_image_bundle, "OTHER": mnist_bundle, "DENSE": BUNDLES / "v3-dense", "SOFT": BUNDLES / "v3-soft",
        "NPZ": images, "FEW": tmp_path / "few.npz", "EMPTY": tmp_path / "empty", "CORRUPT": tmp_path / "corrupt",
        "BROKEN": tmp_path / "broken.npz", "OUT": tmp_path / "out.html", "FOLDER.html": tmp_path / "folder.html",
    }  # fmt: skip
    before = sorted(path.name for path in tmp_path.iterdir())
    assert cli.main([*(str(paths.get(word, word)) for word in words), *QUICK, "-q"]) == code
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and captured.err.startswith("vmoe-report: ")
    assert says in captured.err
    assert (tmp_path / "out.html").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_page_that_can_not_be_written_whole_is_not_written(
    mnist_image_bundle: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "r.html").write_text("before")
    monkeypatch.setattr("vmoe_runtime.whole_files.os.fsync", full)
    words = [mnist_image_bundle, "--images", images, "--sweep", "1", "--curves", "bpr", "--batch-size", "64", *QUICK]
    assert cli.main([*map(str, words), "-q", "-o", str(tmp_path / "r.html")]) == 1
    assert "r.html can't be written: No space left on device" in capsys.readouterr().err
    assert (tmp_path / "r.html").read_text() == "before"
    assert not list(tmp_path.glob(".*"))


def test_an_interrupt_while_it_puts_things_together_leaves_the_old_page(
    mnist_image_bundle: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "r.html").write_text("before")
    monkeypatch.setattr(collect, "measure_agreements", interrupt)
    words = [mnist_image_bundle, "--images", images, "--sweep", "1", "--curves", "bpr", "--batch-size", "64", *QUICK]
    assert cli.main([*map(str, words), "-q", "-o", str(tmp_path / "r.html")]) == 130
    assert capsys.readouterr().err == "vmoe-report: interrupted\n"
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"] and (tmp_path / "r.html").read_text() == "before"


@pytest.fixture
def long_report(mnist_image_bundle: Path, images: Path, tmp_path: Path) -> list[str]:
    """A command line that takes twenty seconds or more."""
    return [*map(str, (mnist_image_bundle, "--images", images, "--duration", 20, "-o", tmp_path / "r.html"))]


@pytest.mark.parametrize("seconds", [0.5, 1.5, 3.0])
def test_ctrl_c_leaves_nothing(seconds: float, long_report: list[str], tmp_path: Path) -> None:
    code, said = interrupted([sys.executable, "-m", "vmoe_tools.report", *long_report], seconds)
    # Python itself ends by the signal where it was making a class when it came.
    assert code in (130, -signal.SIGINT)
    assert "Traceback" not in said and list(tmp_path.iterdir()) == []
    assert said.endswith("vmoe-report: interrupted\n") or code == -signal.SIGINT


def test_without_jinja2_the_extra_is_named(
    mnist_image_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.delitem(sys.modules, "vmoe_tools.report.page", raising=False)
    assert cli.main([str(mnist_image_bundle), "--images", "x.npz", "-o", str(tmp_path / "r.html")]) == 1
    said = capsys.readouterr().err
    assert "jinja2" in said and "pip install 'vmoe-export[bench,images]'" in said


def test_the_package_runs_as_a_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["vmoe_tools.report", "--help"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("vmoe_tools.report", run_name="__main__")
    assert stopped.value.code == 0
    assert "vmoe-report BUNDLE... --images NPZ|DIR -o PAGE.html [options]" in capsys.readouterr().out
