"""vmoe-bench --sweep: which settings it measures, what it finds on MNIST, and what it recommends."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from terminal import interrupted
from test_bench import QUICK, complaint_of, report_of

from vmoe_export import export_bundle
from vmoe_measure.image_labels import read_labels
from vmoe_runtime import Engine, ImageError
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.errors import BundleError
from vmoe_tools.bench import cli, plot
from vmoe_tools.bench.bundle_profiles import add_profile
from vmoe_tools.bench.choice import Wish, mark_front, recommend
from vmoe_tools.bench.report import PointReport
from vmoe_tools.bench.sweep import Axes, read_ratios, sweep_profiles
from vmoe_tools.command_line import CommandError, UsageError

pytestmark = pytest.mark.long

SAMPLE = Path(__file__).parents[2] / "samples" / "mnist"
# Capacity ratio and k of the official predictions, for groups of 16.
RATIOS = ("0.1", "0.2", "0.3", "0.5", "1.05", "2.0")


# Which settings


def test_a_range_is_spaced_by_equal_factors() -> None:
    ratios = np.array(read_ratios(["0.1:2.0"]))
    assert len(ratios) == 8
    np.testing.assert_allclose(ratios[1:] / ratios[:-1], 20 ** (1 / 7), rtol=0.01)
    assert (ratios[0], ratios[-1]) == (0.1, 2.0)
    assert read_ratios(["0.5:0.5:1", "2", "0.25:1:3"]) == (0.25, 0.5, 1.0, 2.0)


@pytest.mark.parametrize(
    "word", ["0", "0:1", "2:1", "1:2:1", "a", "0.1-2", "0.1:2:0", "1:2:9999", "-1", "nan", "1e999:2", ""]
)
def test_what_is_no_range_is_one_sentence(word: str) -> None:
    with pytest.raises(UsageError, match=r"^--sweep"):
        read_ratios([word])


def test_axes_multiply_and_the_profile_says_the_rest(mnist_bundle: Path) -> None:
    manifest = Bundle.open(mnist_bundle).manifest
    base = manifest.profiles["c0.3-k2"]
    profiles, notes = sweep_profiles(manifest.rules, base, Axes((0.1, 1.0)))
    assert ([profile.name for profile in profiles], notes) == (["c0.1-k2", "c1-k2"], [])
    axes = Axes((0.1, 1.0), (1, 2), ("bpr", "vanilla"), (False, True), (3, 8))
    profiles, _ = sweep_profiles(manifest.rules, base, axes)
    assert len({profile.name for profile in profiles}) == 2**5
    assert {"c0.1-k1", "c1-k2-vanilla-pool-m3"} <= {profile.name for profile in profiles}


def test_ratios_that_give_the_same_places_are_measured_once(mnist_image_bundle: Path) -> None:
    manifest = Bundle.open(mnist_image_bundle).manifest
    profiles, notes = sweep_profiles(manifest.rules, manifest.profiles["c0.3-k1"], Axes((0.1, 0.15, 0.2)))
    assert [profile.name for profile in profiles] == ["c0.1-k1", "c0.2-k1"]
    assert notes == ["c0.15-k1 has the places of c0.1-k1, which come to 0.16, and is left out"]


def test_ratios_that_are_left_out_are_said_in_one_sentence(mnist_image_bundle: Path) -> None:
    manifest = Bundle.open(mnist_image_bundle).manifest
    coarse = replace(manifest.rules, capacity_multiple_of=16)
    base = coarse.changed(manifest.profiles["c0.3-k1"], {})
    profiles, notes = sweep_profiles(coarse, base, Axes((0.1, 0.2, 0.4, 0.8, 3)))
    assert [(profile.name, round(profile.effective_ratio, 2)) for profile in profiles] == [
        ("c0.1-k1", 2.56),
        ("c3-k1", 5.12),
    ]
    assert notes == ["c0.2-k1, c0.4-k1 and c0.8-k1 have the places of c0.1-k1, which come to 2.56, and are left out"]


# What it finds


def test_the_sweep_has_the_accuracies_of_the_engine_and_numpys_count_of_kept_pairs(
    mnist_bundle: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = mnist_images["images"][:96], mnist_images["labels"][:96]
    np.savez(tmp_path / "digits.npz", images=images, labels=labels)
    arguments = ("--sweep", *RATIOS, "--k", 1, 2, "--order", "bpr", "vanilla", "--images", tmp_path / "digits.npz")
    points = report_of(capsys, mnist_bundle, *arguments)["points"]
    assert len(points) == 24
    with Engine.load(mnist_bundle) as engine:
        for point in points:
            asked = {"capacity": point["capacity_ratio"], "k": point["k"], "bpr": point["bpr"]}
            logits, routing = engine.logits_and_routing(images, **asked)
            assert point["top1"] == np.mean(logits.argmax(1) == labels)
            kept = np.stack([layer.kept for layer in routing.values()])
            assert point["kept_pairs"] == kept.mean()
            used = [
                len(np.unique(layer.expert[group : group + 1][layer.kept[group : group + 1]]))
                for layer in routing.values()
                for group in range(len(layer.kept))
            ]
            assert point["expert_bytes_per_call"] == round(sum(used) / len(kept[0]) * 2 * 64 * 128 * 4)
            assert point["images"] == 96
    with np.load(SAMPLE / "reference.npz") as official:
        for point in points:
            order = "bpr" if point["bpr"] else "vanilla"
            answers = official[f"pred_K{point['k']}_C{point['capacity_ratio']}_{order}"][:96]
            assert abs(point["top1"] * 96 - np.count_nonzero(answers == labels)) <= 1
    by_name = {point["profile"]: point for point in points}
    assert by_name["c0.1-k1"]["flops_per_image"] < by_name["c2-k2"]["flops_per_image"]
    assert by_name["c0.1-k1-vanilla"]["top1"] < by_name["c0.1-k1"]["top1"]


def test_bundles_stand_side_by_side_and_another_model_is_compared(
    mnist_image_bundle: Path, mnist_bundle: Path, mnist_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    low = tmp_path / "low.vmoe"
    export_bundle(mnist_checkpoint, low, capacity=[0.3], k=[1], precision="int8", validate=False)
    report = report_of(capsys, mnist_image_bundle, low, "--compare", mnist_bundle, "--sweep", "0.5", "1")
    found = [(point["bundle"], point["precision"], point["profile"]) for point in report["points"]]
    assert found[:4] == [
        (path.name, precision, name)
        for path, precision in ((mnist_image_bundle, "fp32"), (low, "int8"))
        for name in ("c0.5-k1", "c1-k1")
    ]
    assert {name for name, _, _ in found[4:]} == {mnist_bundle.name} and len(found) == 4 + 12
    assert {point["batch_size"] for point in report["points"]} == {16}
    complaint = complaint_of(capsys, 2, mnist_image_bundle, mnist_bundle, *QUICK)
    assert "is another model than" in complaint and "--compare" in complaint


def test_bundles_of_one_name_are_told_apart_by_their_paths(
    mnist_image_bundle: Path, mnist_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("one", "other"):
        shutil.copytree(mnist_image_bundle, tmp_path / folder / "digits.vmoe")
    one, other = tmp_path / "one" / "digits.vmoe", tmp_path / "other" / "digits.vmoe"
    wish = ("--images", mnist_digits, "--max-drop-in-accuracy", 0.5)
    report = report_of(capsys, one, "--compare", other, "--sweep", "0.5", *wish)
    assert [point["bundle"] for point in report["points"]] == [str(one)] + [str(other)] * 4
    assert report["recommended"] == 0


def test_csv_and_plot_have_every_point(
    mnist_image_bundle: Path, mnist_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, picture = tmp_path / "points.csv", tmp_path / "points.svg"
    arguments = (mnist_image_bundle, "--sweep", "0.1:1:3", "--pool", "off", "on", "--images", mnist_digits)
    report = report_of(capsys, *arguments, "--csv", table, "--plot", picture)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["profile"] for row in rows] == [point["profile"] for point in report["points"]]
    assert [float(row["top1"]) for row in rows] == [point["top1"] for point in report["points"]]
    drawn = picture.read_text()
    assert ">no pool<" in drawn and ">pool<" in drawn and ">capacity ratio C<" in drawn
    assert sorted(path.name for path in tmp_path.iterdir()) == ["points.csv", "points.svg"]


def test_a_line_has_one_colour_in_all_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(plot, "write_picture", lambda figure, path: figures.append(figure))
    first = point("c0.5-k1", 0.5, 10)
    dense = replace(first, bundle="dense", profile=None, capacity_ratio=None, k=None, bpr=None, pool=None, max_experts=None)
    plot.draw([first, dense, replace(first, then="c2-k1"), replace(first, bundle="int8")], Path("x.png"))
    (figure,) = figures
    colours: dict[str, set[str]] = {}
    for axes in figure.axes:
        for line in axes.lines:
            if line.get_label() != "_stars":
                colours.setdefault(line.get_label(), set()).add(line.get_color())
    assert len(colours) == 4 and all(len(found) == 1 for found in colours.values())
    assert len(set.union(*colours.values())) == 4


# What it recommends


def point(name: str, top1: float | None, speed: float, flops: int = 1) -> PointReport:
    """A measured point of batch 1."""
    return PointReport(
        *("b", "fp32", name, 0.5, 1, True, False, 8, "onnxruntime", 1, None),
        *(speed, 1000 / speed, 1000 / speed, 1000 / speed, 0.5, top1, 100, flops, 0),
    )


SLOW, BEST, FAST, WORSE = point("slow", 0.97, 50), point("best", 0.98, 60), point("fast", 0.96, 100), point("worse", 0.9, 90)


def test_the_front_has_what_nothing_beats() -> None:
    marked = mark_front([SLOW, BEST, FAST, WORSE, point("unlabelled", None, 500), replace(BEST, profile="twin")])
    assert [p.pareto for p in marked] == [False, True, True, False, None, True]


@pytest.mark.parametrize(
    ("wish", "name"),
    [
        (Wish(0.0), "best"),
        (Wish(0.01), "best"),
        (Wish(0.02), "fast"),
        (Wish(target_ms=10.0), "fast"),
        (Wish(target_ms=1000 / 60), "best"),
        (Wish(0.5, 1000 / 95), "fast"),
    ],
)
def test_the_recommended_point_keeps_to_the_wish(wish: Wish, name: str) -> None:
    assert recommend([SLOW, BEST, FAST, WORSE], wish).profile == name


def test_of_equal_points_the_one_with_fewer_flops_is_recommended() -> None:
    assert recommend([point("a", 0.9, 10, 7), point("b", 0.9, 10, 5), point("c", 0.9, 10, 6)], Wish(0.1)).profile == "b"


def test_a_wish_that_nothing_meets_says_what_the_fastest_takes() -> None:
    with pytest.raises(CommandError, match=r"no setting takes 5 ms or less: the fastest takes 10 ms"):
        recommend([SLOW, BEST, FAST, WORSE], Wish(target_ms=5.0))
    with pytest.raises(CommandError, match=r"the fastest of those that are accurate enough takes 16.7 ms"):
        recommend([SLOW, BEST, FAST, WORSE], Wish(0.0, 12.0))


@pytest.mark.parametrize("quarter", [0, 2])
def test_the_recommendation_holds_on_images_that_were_held_out(
    quarter: int,
    mnist_image_bundle: Path,
    mnist_images: dict[str, np.ndarray],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images, labels = mnist_images["images"], mnist_images["labels"]
    seen = np.arange(len(images)) // 384 == quarter
    held_out = ~seen
    np.savez(tmp_path / "seen.npz", images=images[seen], labels=labels[seen])
    drop = 0.01
    report = report_of(
        capsys, mnist_image_bundle, "--sweep", "0.1:2.0", "--pool", "off", "on", "--images", tmp_path / "seen.npz",
        "--batch-size", 16, "--max-drop-in-accuracy", drop,
    )  # fmt: skip
    chosen = report["points"][report["recommended"]]
    best = max(report["points"], key=lambda point: point["top1"])
    assert chosen["top1"] >= best["top1"] - drop
    with Engine.load(mnist_image_bundle) as engine:
        right = [engine(images[held_out], p["profile"]).argmax(1) == labels[held_out] for p in (best, chosen)]
    lost = right[0].astype(float) - right[1]
    assert lost.mean() <= drop + 2 * lost.std(ddof=1) / np.sqrt(len(lost))


def test_the_recommended_profile_is_written_into_the_bundle(
    mnist_image_bundle: Path, mnist_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "own.vmoe"
    shutil.copytree(mnist_image_bundle, bundle)
    before = json.loads((bundle / "manifest.json").read_text())
    wish = ("--images", mnist_digits, "--target-latency", 1e6, "--add-profile")
    arguments = (bundle, "--sweep", "0.4", "--pool", "on", *wish)
    report = report_of(capsys, *arguments)
    assert report["recommended"] == 0
    after = json.loads((bundle / "manifest.json").read_text())
    assert [profile["name"] for profile in after["profiles"]] == [
        "c0.3-k1",
        "c0.3-k2",
        "c1.05-k1",
        "c1.05-k2",
        "c0.4-k1-pool",
    ]
    assert after["flops_per_image"]["c0.4-k1-pool"] < after["flops_per_image"]["c1.05-k1"]
    del after["profiles"][-1], after["flops_per_image"]["c0.4-k1-pool"]
    assert after == before
    with Engine.load(bundle) as engine:
        assert engine.profile is not None and engine.profile.name == "c0.3-k1"
    assert cli.main([*map(str, arguments), *QUICK]) == 0
    assert "c0.4-k1-pool is already a profile of" in capsys.readouterr().err


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
    with pytest.raises(BundleError, match=r"can't get the profile c0\.9-k1"):
        add_profile(bundle, replace(profile, name="c0.9-k1"))
    with pytest.raises(BundleError, match="nothing to set"):
        add_profile(Path(__file__).parents[1] / "data" / "bundles" / "v3-soft", profile)
    assert (bundle / "manifest.json").read_bytes() == manifest


# Labels


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("file,label\na.png,one\nb/c.png,1\n", {"a.png": 1, "b/c.png": 1}),
        ('a.png,0\r\n\r\n"b,c.png", two \n', {"a.png": 0, "b,c.png": 2}),
        ("\ufeffa.png,2\n", {"a.png": 2}),
    ],
    ids=repr,
)
def test_labels_are_names_or_indices(text: str, labels: dict[str, int], tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8", newline="")
    assert read_labels(tmp_path / "labels.csv", ("zero", "one", "two")) == labels


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no labels"),
        ("file,label\n", "has no labels"),
        ("a.png,1\nb.png\n", "line 2: "),
        ("a.png,1\nb.png,drei\n", "is not a picture and the name or index of a class"),
        ("a.png,1\na.png,2\n", "has a label already"),
        ("a.png,1\n../b.png,1\n", "no path inside the folder"),
        ("/etc/passwd,1\n", "no path inside the folder"),
        ("a.png,-1\n0,-1\n", "line 2: "),
        ("a\udcff,1\n", "not a readable CSV file"),
    ],
    ids=repr,
)
def test_what_is_no_label_is_one_sentence(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ImageError, match=says):
        read_labels(tmp_path / "labels.csv", ("zero", "one", "two"))


def test_a_csv_file_labels_pictures(
    mnist_image_bundle: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    for index in range(6):
        Image.fromarray(mnist_images["images"][index]).save(tmp_path / f"{index}.png")
    rows = [f"{index}.png,{mnist_images['labels'][index]}" for index in (3, 1, 5)]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    arguments = (mnist_image_bundle, "--profile", "c1.05-k2", "--images", tmp_path, "--labels", tmp_path / "labels.csv")
    (found,) = report_of(capsys, *arguments)["points"]
    assert (found["images"], found["top1"]) == (3, 1.0)
    (tmp_path / "labels.csv").write_text("\n".join([*rows, "9.png,1"]))
    assert "9.png, which is no file" in complaint_of(capsys, 1, *arguments)
    (tmp_path / "labels.csv").write_text("\n".join([*rows, "0.png,10"]))
    says = f"{tmp_path / 'labels.csv'}: labels go from "
    assert says in complaint_of(capsys, 1, *arguments)


# What can't be done


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--k", "1"], 2, "--k is an axis of --sweep"),
        (["--order", "bpr"], 2, "--order is an axis of --sweep"),
        (["--sweep", "0.1:2.0", "--profile", "c0.3-k1", "c0.3-k2"], 2, "--sweep starts from one profile"),
        (["--sweep", "0.5", "--k", "9"], 2, "--sweep at 0.5: k must be between 1 and"),
        (["--sweep", "9"], 2, "--sweep at 9: the capacity ratio 9 is larger"),
        (["--sweep", "0.5", "--max-experts", "0"], 2, "whole number from 1"),
        (["--sweep", "0.5", "--order", "fifo"], 2, "--order"),
        (["--sweep", "0.5", "--pool", "yes"], 2, "--pool"),
        (["--sweep", "x"], 2, "--sweep takes capacity ratios"),
        (["--max-drop-in-accuracy", "0.1"], 2, "needs images with labels"),
        (["--max-drop-in-accuracy", "2", "--images", "NPZ"], 2, "0.01 is one point"),
        (["--target-latency", "0", "--images", "NPZ"], 2, "must be a positive number"),
        (["--add-profile"], 2, "--add-profile writes a recommended setting"),
        (["--target-latency", "9", "--images", "PLAIN"], 2, "a recommendation needs labels"),
        (["--target-latency", "0.000001", "--images", "NPZ"], 1, "no setting takes 1e-06 ms or less"),
        (["--labels", "NPZ"], 2, "there is no --images"),
        (["--labels", "NPZ", "--images", "NPZ"], 1, "is none"),
        (["--plot", "x.doc"], 2, "must end in"),
        (["--csv", "no/such/folder.csv"], 1, "there is no folder"),
        (["--compare", "nothing.vmoe"], 1, "no such folder"),
        (["--images", "EMPTY"], 1, "has no pictures"),
    ],
    ids=str,
)
def test_what_can_not_be_done_is_one_sentence(
    *,
    words: list[str],
    code: int,
    says: str,
    mnist_image_bundle: Path,
    mnist_images: dict[str, np.ndarray],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    np.savez(tmp_path / "labelled.npz", images=mnist_images["images"][:8], labels=mnist_images["labels"][:8])
    np.savez(tmp_path / "plain.npz", images=mnist_images["images"][:8])
    (tmp_path / "empty").mkdir()
    paths = {"NPZ": tmp_path / "labelled.npz", "PLAIN": tmp_path / "plain.npz", "EMPTY": tmp_path / "empty"}
    arguments = [str(paths.get(word, word)) for word in words]
    assert cli.main([str(mnist_image_bundle), *arguments, "-q", *QUICK]) == code
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert says in captured.err


@pytest.mark.parametrize("name", ["v3-dense", "v3-soft"])
def test_a_model_without_capacity_has_nothing_to_sweep(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = Path(__file__).parents[1] / "data" / "bundles" / name
    assert "has no capacity to choose" in complaint_of(capsys, 2, bundle, "--sweep", "0.1:2.0", *QUICK)


@pytest.mark.parametrize("name", ["v3-plain", "v3-int8", "v3-ensemble", "v3-choice"])
def test_bundles_of_every_kind_and_format_sweep(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = Path(__file__).parents[1] / "data" / "bundles" / name
    points = report_of(capsys, bundle, "--sweep", "0.3", "1")["points"]
    assert [point["capacity_ratio"] for point in points] == [0.3, 1.0]
    assert points[0]["kept_pairs"] < points[1]["kept_pairs"]
    assert points[0]["flops_per_image"] < points[1]["flops_per_image"]


@pytest.fixture
def long_sweep(mnist_image_bundle: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path) -> list[str]:
    """A command line that asks about images for half a second, and then times calls; the JSON goes to report.json."""
    np.savez(tmp_path / "digits.npz", **{name: array[:64] for name, array in mnist_images.items()})
    words = [mnist_image_bundle, "--sweep", "0.1:2.0", "--images", tmp_path / "digits.npz", "--duration", 20]
    return [*map(str, words), "--json", str(tmp_path / "report.json")]


def assert_what_was_measured_is_kept(said: str, target: Path) -> None:
    """Holds what an interrupted sweep said and wrote to what it must."""
    assert "Traceback" not in said
    if not target.exists():
        assert said.endswith("vmoe-bench: interrupted\n")
        return
    report = json.loads(target.read_text())
    assert "interrupted; what was measured by then is shown" in said
    assert report["interrupted"] is True and report["points"]
    images = [measured["images"] for measured in report["points"]]
    assert min(images) > 0 and max(images) - min(images) <= 1, "points were asked about other images than their neighbours"
    for measured in report["points"]:
        assert 0 <= measured["top1"] <= 1
        assert (measured["p50_ms"] is None) == (measured["images_per_second"] is None)


@pytest.mark.parametrize("seconds", [0.4, 0.6, 0.8, 1.2, 1.6, 2.0, 3.0])
def test_ctrl_c_keeps_what_was_measured(seconds: float, long_sweep: list[str], tmp_path: Path) -> None:
    code, said = interrupted([sys.executable, "-m", "vmoe_tools.bench", *long_sweep], seconds)
    # Python itself ends by the signal where it was making a class when it came.
    assert code in (130, -signal.SIGINT)
    assert_what_was_measured_is_kept(said, tmp_path / "report.json")
