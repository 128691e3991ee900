"""A page never is larger than 5 MB: what it has room for, and what is said where that is too little."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from large_reports import large_report, observed
from test_bench import QUICK

from vmoe_tools.command_line import CommandError, UsageError
from vmoe_tools.report import cli, page, size
from vmoe_tools.report.details import class_map, most_shown
from vmoe_tools.report.words import followed_classes


@pytest.mark.parametrize(
    ("curves", "grid", "asked", "samples", "classes"),
    [(1, 14, 12, 12, 200), (1, 14, 24, 24, 120), (3, 14, 12, 11, 38), (3, 24, 24, 5, 34), (1, 7, 1, 1, 277)],
)
def test_a_model_of_a_thousand_classes_stays_small(curves: int, grid: int, asked: int, samples: int, classes: int) -> None:
    report = large_report(classes=1000, experts=32, layers=24, ratios=8, curves=curves, grid=grid, samples=asked)
    html = page.render_page(report)
    size.check_size(html)
    assert 2_000_000 < len(html.encode()) <= 5_000_000
    assert len(report.samples) == samples
    assert report.class_map is not None and len(report.class_map.followed) >= classes
    counts = report.class_map.images
    shown = sorted(counts[place] for place in report.class_map.followed)
    assert shown == sorted(counts)[-len(shown) :]
    said = f"Of 1,000 classes the {len(shown):,} with most images are shown, so that the page stays small."
    assert followed_classes(report.class_map) == said and said in html
    patches = np.frombuffer(base64.b64decode(report.settings[-1].patches or ""), np.uint8)
    assert patches.shape == (24 * samples * grid**2,)


def test_all_classes_are_followed_where_there_is_room() -> None:
    report = large_report(classes=60, experts=8, layers=4, samples=1)
    assert report.class_map is not None and report.class_map.followed == tuple(range(60))
    assert followed_classes(report.class_map) is None


def test_the_classes_of_most_images_are_followed() -> None:
    images = np.array([3, 0, 9, 3, 1, 9])
    rng = np.random.default_rng(1)
    seen = observed(rng, images, 4, 2, (1, 2, 2))
    assert [most_shown(seen, most) for most in (0, 1, 3, 99)] == [[], [2], [0, 2, 5], [0, 2, 3, 4, 5]]
    found = class_map(8, seen, [f"n{index}" for index in range(6)], [0, 2, 5])
    assert found is not None
    assert (found.classes, found.images) == (("n0", "n2", "n3", "n4", "n5"), (3, 9, 3, 1, 9))
    assert found.followed == (0, 1, 4)
    weight = list(seen.layers.values())[1].class_weight
    assert weight is not None
    np.testing.assert_allclose(found.weight[1], weight[[0, 2, 3, 4, 5]], atol=5.1e-5)


def test_more_settings_than_a_page_has_room_for_are_one_sentence_before_anything_is_measured() -> None:
    with pytest.raises(UsageError, match=r"the page of 900 settings would be larger than 5 MB: fewer ratios after --sweep"):
        size.room_of(points=900, settings=900, layers=12, experts=8, patches=196, samples=12)


def test_samples_that_there_is_no_room_for_are_left_out_and_said(
    mnist_image_bundle: Path, mnist_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with np.load(mnist_data) as data:
        np.savez(tmp_path / "i.npz", images=data["images"][:64], labels=data["labels"][:64])
    words = [mnist_image_bundle, "--images", tmp_path / "i.npz", "--sweep", "0.1", "2", "--curves", "bpr", *QUICK, "-q"]
    monkeypatch.setattr(size, "MOST_BYTES", 600_000)
    assert cli.main([*map(str, words), "-o", str(tmp_path / "r.html"), "--json", str(tmp_path / "r.json")]) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    said = "4 of the 12 sample images that were asked for are shown, so that the page stays small."
    assert len(report["samples"]) == 4 and report["notes"] == [said]
    assert said in (tmp_path / "r.html").read_text(encoding="utf-8") and (tmp_path / "r.html").stat().st_size < 600_000


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_page_that_would_be_too_large_is_not_written(
    where: str,
    mnist_image_bundle: Path,
    mnist_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with np.load(mnist_data) as data:
        np.savez(tmp_path / "i.npz", images=data["images"][:2], labels=data["labels"][:2])
    (tmp_path / "r.html").write_text("before")
    if where == "before":
        monkeypatch.setattr(size, "MOST_BYTES", 100_000)
    else:
        monkeypatch.setattr(page, "render_page", lambda _: "é" * 2_600_000)
    words = [mnist_image_bundle, "--images", tmp_path / "i.npz", "--sweep", "1", "--curves", "bpr", *QUICK, "-q"]
    code = cli.main([*map(str, words), "-o", str(tmp_path / "r.html"), "--json", str(tmp_path / "r.json")])
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("vmoe-report: the page ")
    assert (code, "5.2 MB large, and 5 MB is the most" in said) == ((2, False) if where == "before" else (1, True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["i.npz", "r.html"]
    assert (tmp_path / "r.html").read_text() == "before"


def test_the_limit_is_of_bytes() -> None:
    size.check_size("x" * 5_000_000)
    with pytest.raises(CommandError, match=r"5\.0 MB large"):
        size.check_size("x" * 5_000_001)
