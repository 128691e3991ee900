"""Tests for `vmoe bench --sweep`.

They check the measured settings, the results on MNIST, the recommendations, and cascades.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
from command_runs import QUICK, Vmoe, kept_bundle, npz
from test_bench import report_of

from vmoe_export import export_bundle
from vmoe_measure.cascade import calibrated_margin
from vmoe_runtime import Engine
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.errors import BundleError
from vmoe_tools.bench.bundle_profiles import add_profile
from vmoe_tools.bench.cascades import CascadeAnswers
from vmoe_tools.bench.point_result import PointResult, mark, recommend
from vmoe_tools.bench.quality import count_right
from vmoe_tools.charts import ACCURACY, TIME, line_chart, overview
from vmoe_tools.options import RatioRange, Share
from vmoe_tools.output import check_drawing

pytestmark = pytest.mark.long


def capacities(*ratios: object) -> list[object]:
    """Return the command-line options that set these capacity ratios."""
    return [word for ratio in ratios for word in ("--capacity", ratio)]


# Which settings


def test_a_range_is_spaced_by_equal_factors() -> None:
    ratios = np.array(RatioRange().convert("0.1:2.0", None, None))
    assert len(ratios) == 8
    np.testing.assert_allclose(ratios[1:] / ratios[:-1], 20 ** (1 / 7), rtol=0.01)
    assert (ratios[0], ratios[-1]) == (0.1, 2.0)
    assert RatioRange().convert("0.25:1:3", None, None) == (0.25, 0.5, 1.0)


@pytest.mark.parametrize("word", ["0.5", "0:1", "2:1", "1:2:1", "a:b", "0.1-2", "0.1:2:0", "1:2:9999", "-1:2", "nan:1", ""])
def test_what_is_no_range_is_one_line(word: str, vmoe: Vmoe) -> None:
    assert "--sweep" in vmoe.complaint(2, "bench", "x.vmoe", "--sweep", word)


@pytest.mark.parametrize(("word", "share"), [("0.01", 0.01), ("1%", 0.01), ("0.5%", 0.005), ("0", 0.0), ("50%", 0.5)])
def test_a_share_is_a_number_or_percent(word: str, share: float) -> None:
    assert Share(0, 100, max_open=True).convert(word, None, None) == share


# Results


def test_the_sweep_has_the_accuracies_of_the_engine_and_numpys_count_of_kept_pairs(
    mnist_bundle: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path, vmoe: Vmoe
) -> None:
    images, labels = mnist_images["images"][:96], mnist_images["labels"][:96]
    digits = npz(tmp_path / "digits.npz", images=images, labels=labels)
    arguments = (*capacities(0.1, 0.2, 0.3, 0.5, 1.05, 2), "--k", 1, "--k", 2, "--bpr", "--no-bpr", "--images", digits)
    points = report_of(vmoe, mnist_bundle, *arguments)["points"]
    assert len(points) == 24
    with Engine.load(mnist_bundle) as engine:
        for point in points:
            setting = {"capacity": point["capacity_ratio"], "k": point["k"], "bpr": point["bpr"]}
            logits, routing = engine.logits_and_routing(images, **setting)
            assert point["top1"] == np.mean(logits.argmax(1) == labels)
            kept = np.stack([layer.kept for layer in routing.values()])
            assert point["kept_pairs"] == kept.mean()
            # The last layer computes only the class tokens. So in that layer, only every 50th token is counted.
            steps = [1] * (len(routing) - 1) + [50]
            used = [
                len(np.unique(layer.expert[group, ::step][layer.kept[group, ::step]]))
                for layer, step in zip(routing.values(), steps, strict=True)
                for group in range(len(layer.kept))
            ]
            assert point["expert_bytes_per_call"] == round(sum(used) / len(kept[0]) * 2 * 64 * 128 * 4)
            assert point["images"] == 96
    by_name = {point["profile"]: point for point in points}
    assert by_name["c0.1-k1"]["flops_per_image"] < by_name["c2-k2"]["flops_per_image"]
    assert by_name["c0.1-k1-vanilla"]["top1"] < by_name["c0.1-k1"]["top1"]


def test_bundles_stand_side_by_side_and_another_model_is_compared(
    mnist_image_bundle: Path, mnist_bundle: Path, mnist_checkpoint: Path, tmp_path: Path, vmoe: Vmoe
) -> None:
    low = tmp_path / "low.vmoe"
    export_bundle(mnist_checkpoint, low, capacity=[0.3], k=[1], precision="int8", validate=False)
    report = report_of(vmoe, mnist_image_bundle, low, "--compare", mnist_bundle, *capacities(0.5, 1))
    found = [(point["bundle"], point["precision"], point["profile"]) for point in report["points"]]
    assert found[:4] == [
        (path.name, precision, name)
        for path, precision in ((mnist_image_bundle, "fp32"), (low, "int8"))
        for name in ("c0.5-k1", "c1-k1")
    ]
    assert found[4:] == [(mnist_bundle.name, "fp32", "c0.1-k1")]  # the first stored profile
    assert {point["batch_size"] for point in report["points"]} == {16}
    complaint = vmoe.complaint(2, "bench", mnist_image_bundle, mnist_bundle, *QUICK)
    assert "is another model than" in complaint


def test_bundles_of_one_name_are_told_apart_by_their_paths(
    mnist_image_bundle: Path, mnist_digits: Path, tmp_path: Path, vmoe: Vmoe
) -> None:
    for folder in ("one", "other"):
        shutil.copytree(mnist_image_bundle, tmp_path / folder / "digits.vmoe")
    one, other = tmp_path / "one" / "digits.vmoe", tmp_path / "other" / "digits.vmoe"
    limit = ("--images", mnist_digits, "--max-drop-in-accuracy", "50%")
    report = report_of(vmoe, one, "--compare", other, *capacities(0.5), *limit)
    assert [point["bundle"] for point in report["points"]] == [str(one), str(other)]
    assert report["recommended"] == 0


def test_csv_and_plot_have_every_point(mnist_image_bundle: Path, mnist_digits: Path, tmp_path: Path, vmoe: Vmoe) -> None:
    table, picture = tmp_path / "points.csv", tmp_path / "points.svg"
    arguments = (mnist_image_bundle, "--sweep", "0.1:1:3", "--pool", "--no-pool", "--images", mnist_digits)
    report = report_of(vmoe, *arguments, "--csv", table, "--plot", picture)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["profile"] for row in rows] == [point["profile"] for point in report["points"]]
    assert [float(row["top1"]) for row in rows] == [point["top1"] for point in report["points"]]
    drawn = picture.read_text()
    assert ">no pool<" in drawn and ">pool<" in drawn and ">capacity ratio C<" in drawn
    assert sorted(path.name for path in tmp_path.iterdir()) == ["points.csv", "points.svg"]


def test_many_lines_of_a_chart_differ_and_their_names_cover_none() -> None:
    points = [replace(SLOW, setting=SETTING | {"max_experts": m, "merge": r}) for m in range(1, 8) for r in (0, 8)]
    chart, few = line_chart(points, TIME, ACCURACY), line_chart(points[:2], TIME, ACCURACY)
    (legend,) = chart.legends
    lines = [(line.get_color(), line.get_marker()) for line in legend.get_lines()]
    assert len(lines) == len(set(lines)) == 14 and chart.axes[0].get_legend() is None
    figures = (chart, overview(points))
    for figure in figures:
        figure.draw_without_rendering()
        names = figure.legends[0].get_window_extent()
        assert not any(names.overlaps(axes.get_tightbbox()) for axes in figure.axes)
        assert 0 <= names.xmin < names.xmax <= figure.bbox.width and names.ymin >= 0
    assert not few.legends and few.axes[0].get_legend() is not None


def test_a_model_without_a_capacity_is_one_line_of_what_it_merges(tmp_path: Path, vmoe: Vmoe) -> None:
    merged = [replace(SLOW, profile=f"r{r}", setting=dict.fromkeys(SETTING) | {"merge": r}) for r in (0, 4, 8)]
    figure = overview(merged)
    assert [axes.get_xlabel() for axes in figure.axes] == ["MFLOP per image", "milliseconds per image"]
    assert [len(axes.lines[0].get_xdata()) for axes in figure.axes] == [3, 3]
    words = ("bench", kept_bundle("dense"), "--plot", tmp_path / "x.png")
    assert "--plot draws accuracy or kept pairs" in vmoe.complaint(2, *words)


# Recommendations


SETTING = {"capacity_ratio": 0.5, "k": 1, "bpr": True, "pool": False, "max_experts": 8, "merge": None}


def point(name: str, top1: float | None, speed: float, flops: int = 1, noise: float = 0.0) -> PointResult:
    """Return a measured point with batch size 1.

    `noise` is half the width of the speed's confidence interval, relative to the speed.
    """
    ms = 1000 / speed
    return PointResult(
        *("b", "fp32", name, SETTING, "onnxruntime", 1, None),
        *(speed, ms, ms, ms, ms * (1 - noise), ms * (1 + noise), 0.5, top1, 100, flops, 0),
    )


def recommended(
    points: list[PointResult], max_drop: float | None = None, target_ms: float | None = None
) -> list[str | None]:
    """Return the name of the recommended setting, followed by the names of equally fast settings."""
    return [points[index].profile for index in recommend(points, range(len(points)), max_drop, target_ms)]


SLOW, BEST, FAST, WORSE = point("slow", 0.97, 50), point("best", 0.98, 60), point("fast", 0.96, 100), point("worse", 0.9, 90)


def test_the_front_has_what_nothing_beats() -> None:
    marked = mark([SLOW, BEST, FAST, WORSE, point("unlabelled", None, 500), replace(BEST, profile="twin")])
    assert [p.pareto for p in marked] == [False, True, True, False, None, True]


@pytest.mark.parametrize(
    ("max_drop", "target_ms", "name"),
    [
        (0.0, None, "best"),
        (0.01, None, "best"),
        (0.02, None, "fast"),
        (None, 10.0, "fast"),
        (None, 1000 / 60, "best"),
        (0.5, 1000 / 95, "fast"),
    ],
)
def test_the_recommended_point_keeps_to_the_limits(max_drop: float | None, target_ms: float | None, name: str) -> None:
    assert recommended([SLOW, BEST, FAST, WORSE], max_drop, target_ms) == [name]


@pytest.mark.parametrize("target_ms", [None, 1000.0])
def test_of_settings_within_the_noise_of_the_timing_the_one_with_the_fewest_flops_is_recommended(
    target_ms: float | None,
) -> None:
    fastest, cheap, slower = point("a", 0.9, 100, 7, 0.02), point("b", 0.9, 97, 5, 0.02), point("c", 0.9, 95, 1, 0.02)
    assert recommended([fastest, cheap, slower], 0.0, target_ms) == ["b", "a"]
    twin = replace(cheap, profile="twin", top1=0.91)
    assert recommended([fastest, cheap, twin], 0.1, target_ms) == ["twin", "b", "a"]
    assert recommended([fastest, replace(cheap, top1=0.8)], None, target_ms) == ["a"]


@pytest.mark.slow
def test_bench_and_report_recommend_by_the_same_rule_and_say_how_sure_the_timing_is(
    mnist_image_bundle: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path, vmoe: Vmoe
) -> None:
    digits = npz(tmp_path / "digits.npz", **{name: array[64:128] for name, array in mnist_images.items()})
    words = (mnist_image_bundle, *capacities(0.1, 0.5, 2), "--bpr", "--images", digits, *QUICK)
    limit = ("--max-drop-in-accuracy", "5%")
    benched = vmoe.json("bench", *words, *limit)
    reported = vmoe.json("report", *words, *limit, "-o", tmp_path / "r.html")
    for found in (benched, reported):
        points = found["points"]
        fitting = [one for one in points if one["top1"] >= max(each["top1"] for each in points) - 0.05 - 1e-9]
        limit_ms = min(fitting, key=lambda one: one["p50_ms"])["p50_high_ms"]
        equal = sorted((one for one in fitting if one["p50_low_ms"] <= limit_ms), key=lambda one: one["flops_per_image"])
        assert [points[index] for index in found["equally_fast"]] == equal
        assert points[found["recommended"]] == equal[0]
    out = vmoe.run("bench", *words, *limit)[0]
    assert "95 % interval" in out and re.search(r"Recommended: .* ms a call \([0-9.]+ - [0-9.]+\)", out)


@pytest.mark.slow
def test_accuracy_that_always_one_class_would_have_is_called_near_chance(
    mnist_image_bundle: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path, vmoe: Vmoe
) -> None:
    images, labels = mnist_images["images"][:50], mnist_images["labels"][:50]
    shuffled = np.where(np.arange(50) % 5 == 0, labels, (labels + 1) % 10)  # one image in five keeps its right label
    odd, right = (npz(tmp_path / f"{i}.npz", images=images, labels=each) for i, each in enumerate((shuffled, labels)))
    words = (mnist_image_bundle, *capacities(0.5, 2), "--bpr", *QUICK, "--images")
    chance = np.bincount(shuffled).max() / 50
    sentence = f"near chance: always answering the most frequent class would be correct for {chance:.1%}"
    assert sentence in vmoe.run("bench", *words, odd)[0]
    page = ("-o", tmp_path / "r.html")
    assert any(sentence in note for note in vmoe.json("report", *words, odd, *page)["notes"])
    assert "near chance" not in vmoe.run("bench", *words, right)[0]
    # With batches of 32, only the first 32 of the 50 images are measured.
    found = vmoe.json("bench", *words, odd, "--batch-size", 32, "--batch-size", 50)["points"]
    assert {one["chance"] for one in found} == {np.bincount(shuffled[:count]).max() / count for count in (32, 50)}


def test_logits_that_are_no_numbers_are_right_for_no_class() -> None:
    logits, answers = np.array([[np.nan, 0], [1, 0], [np.inf, 0]]), CascadeAnswers()
    answers(logits, {}, None)
    assert answers.classes.tolist() == [-1, 0, -1] and count_right(logits, np.zeros(3, int)) == 1


def test_a_limit_that_nothing_meets_says_what_the_fastest_takes() -> None:
    with pytest.raises(click.ClickException, match=r"no setting takes 5 ms or less: the fastest takes 10 ms"):
        recommended([SLOW, BEST, FAST, WORSE], target_ms=5.0)
    with pytest.raises(click.ClickException, match=r"the fastest of those that are accurate enough takes 16.7 ms"):
        recommended([SLOW, BEST, FAST, WORSE], 0.0, 12.0)


def test_the_recommended_profile_is_written_into_the_bundle(
    mnist_image_bundle: Path, mnist_digits: Path, tmp_path: Path, vmoe: Vmoe, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "own.vmoe"
    shutil.copytree(mnist_image_bundle, bundle)
    before = json.loads((bundle / "manifest.json").read_text())
    limit = ("--images", mnist_digits, "--target-latency", 1e6, "--add-profile")
    arguments = (bundle, *capacities(0.4), "--pool", *limit)
    report = report_of(vmoe, *arguments)
    assert report["recommended"] == 0
    after = json.loads((bundle / "manifest.json").read_text())
    assert after["profiles"][-1]["name"] == "c0.4-k1-pool"
    assert after["flops_per_image"]["c0.4-k1-pool"] < after["flops_per_image"]["c1.05-k1"]
    del after["profiles"][-1], after["flops_per_image"]["c0.4-k1-pool"]
    assert after == before
    with Engine.load(bundle) as engine:
        assert engine.profile is not None and engine.profile.name == "c0.3-k1"
    assert "c0.4-k1-pool is already a profile of" in vmoe.run("bench", *arguments, *QUICK)[1]
    monkeypatch.setattr("os.access", lambda _, mode: mode != os.W_OK)
    assert "own.vmoe is read-only" in vmoe.complaint(2, "bench", *arguments, *QUICK)


def test_a_profile_is_added_once_and_only_where_it_fits(mnist_image_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "own.vmoe"
    shutil.copytree(mnist_image_bundle, bundle)
    with Engine.load(bundle) as engine:
        profile = engine.setting("c0.7-k2-vanilla-m3")
    assert profile is not None
    assert add_profile(bundle, profile)
    manifest = (bundle / "manifest.json").read_bytes()
    assert not add_profile(bundle, profile)
    assert (bundle / "manifest.json").read_bytes() == manifest
    assert Bundle.open(bundle).manifest.profiles[profile.name] == profile
    with pytest.raises(BundleError, match=r"can't have the profile c0\.9-k1"):
        add_profile(bundle, replace(profile, profile="c0.9-k1"))
    with pytest.raises(BundleError, match="has no settings"):
        add_profile(kept_bundle("soft"), profile)
    assert (bundle / "manifest.json").read_bytes() == manifest


# Cascades


def smallest_margin(margins: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """Return the smallest margin at which a cascade is at least as accurate as its second step alone.

    `margins` are the margins of the first step. `low` and `high` are bool[N]. For each image, `low` says whether the first
    step classifies it correctly, and `high` says whether the second step does.
    """
    found = 2.0
    for margin in sorted({0.0, *margins.tolist(), 2.0}, reverse=True):
        if np.count_nonzero(np.where(margins < margin, high, low)) < np.count_nonzero(high):
            break
        found = margin
    return found


def test_cascades_are_tested_on_images_that_their_margin_was_not_calibrated_on(
    mnist_image_bundle: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path, vmoe: Vmoe
) -> None:
    images, labels = mnist_images["images"][64:192], mnist_images["labels"][64:192]
    words = (mnist_image_bundle, *capacities(0.1, 0.5, 2), "--pool", "--no-pool", "--batch-size", 32, "--cascade")
    report = report_of(vmoe, *words, "--images", npz(tmp_path / "digits.npz", images=images, labels=labels))
    points = {one["profile"]: one for one in report["points"]}
    best = max(points.values(), key=lambda one: (one["top1"], -one["flops_per_image"]))
    assert report["cascades"] and {one["then"] for one in report["cascades"]} == {best["profile"]}
    cheaper = [one for one in points.values() if one["flops_per_image"] < best["flops_per_image"]]
    worth = [
        one["profile"]
        for one in cheaper
        if not any(o["top1"] >= one["top1"] and o["flops_per_image"] < one["flops_per_image"] for o in cheaper)
    ]
    assert sorted(one["profile"] for one in report["cascades"]) == sorted(worth)
    even = np.arange(128) // 32 % 2 == 0
    with Engine.load(mnist_image_bundle) as engine:
        high = engine(images, best["profile"]).argmax(1) == labels
        for one in report["cascades"]:
            logits = engine(images, one["profile"]).astype(np.float64)
            shares = np.exp(logits - logits.max(1, keepdims=True))
            ranked = np.sort(shares / shares.sum(1, keepdims=True), axis=1)
            margins, low = ranked[:, -1] - ranked[:, -2], logits.argmax(1) == labels
            right, escalated = 0, 0
            for known in (even, ~even):
                unsure = margins[~known] < smallest_margin(margins[known], low[known], high[known]) - 1e-9
                right += np.count_nonzero(np.where(unsure, high[~known], low[~known]))
                escalated += np.count_nonzero(unsure)
            assert (one["top1"], one["escalated"]) == (right / 128, escalated / 128)
            assert one["margin"] == pytest.approx(smallest_margin(margins, low, high), abs=1e-9)
            flops = points[one["profile"]]["flops_per_image"] + escalated / 128 * best["flops_per_image"]
            assert one["flops_per_image"] == round(flops) and one["images_per_second"] > 0
    everything = [*report["points"], *report["cascades"]]
    for one in everything:
        own = (one["images_per_second"], one["top1"])
        others = [(other["images_per_second"], other["top1"]) for other in everything]
        assert one["pareto"] == (not any(s >= own[0] and t >= own[1] and (s, t) != own for s, t in others))


def test_cascades_without_labels_are_calibrated_on_the_answers_of_the_most_expensive_setting(
    mnist_image_bundle: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path, vmoe: Vmoe
) -> None:
    images = mnist_images["images"][:256]
    words = ("--images", npz(tmp_path / "images.npz", images=images), "--cascade", *capacities(0.2, 1.05))
    (cascade,) = report_of(vmoe, mnist_image_bundle, *words)["cascades"]
    assert (cascade["profile"], cascade["then"], cascade["top1"]) == ("c0.2-k1", "c1.05-k1", None)
    with Engine.load(mnist_image_bundle) as engine:
        assert cascade["margin"] == calibrated_margin(engine(images, "c0.2-k1"), engine(images, "c1.05-k1"))
    assert report_of(vmoe, mnist_image_bundle, *words[:3], *capacities(0.2))["cascades"] == []


# Refusals


def test_no_more_than_half_of_the_tokens_merge_so_larger_numbers_are_not_measured(
    mnist_image_bundle: Path, vmoe: Vmoe
) -> None:
    merges = [word for merge in (0, 1000, 2000) for word in ("--merge", merge)]
    out, complaint = vmoe.run("bench", mnist_image_bundle, *capacities(1), *merges, "--json", "-", *QUICK)
    assert [point["merge"] for point in json.loads(out)["points"]] == [0, 1000]
    assert re.search(
        r"not measured, because they have the same effect as c1-k1-r1000 \(effectively 1.*\): c1-k1-r2000", complaint
    )


def test_a_picture_without_matplotlib_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(click.ClickException, match=r"^--plot needs matplotlib.*; pip install 'vmoe-export\[bench\]'$"):
        check_drawing(tmp_path / "x.png", "--plot")
