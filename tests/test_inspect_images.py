"""vmoe-inspect --images: what it shows, writes and draws, what it can't do, and Ctrl-C at any moment."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_changes import BUNDLES
from matplotlib.colors import to_rgb
from PIL import Image
from terminal import default_signals
from test_inspect import changed, row, run

from vmoe_export import export_bundle
from vmoe_inspect import image_command
from vmoe_inspect.cli import main
from vmoe_inspect.expert_charts import chart_classes, chart_gates, chart_loads
from vmoe_inspect.expert_colours import FEW, expert_colours
from vmoe_inspect.patch_pictures import picture_capacities, picture_experts, picture_kept
from vmoe_inspect.samples import Samples, take_samples
from vmoe_inspect.statistics import RoutingStatistics
from vmoe_runtime import Engine
from vmoe_runtime.image_source import ImageSource

NAMES = ("zero", "[/b]one", "two\x1b[2J", "$three$", "four", "five", "six", "seven", "eight", "nine" * 60)
LAYERS = [f"encoderblock_{i}" for i in range(5)]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, mnist_images: dict[str, np.ndarray]) -> Path:
    """70 labelled digits: four groups of 16, and six images left over."""
    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    np.savez(path, images=mnist_images["images"][:70], labels=mnist_images["labels"][:70])
    return path


@pytest.fixture(scope="module")
def low_bundle(tmp_path_factory: pytest.TempPathFactory, mnist_checkpoint: Path) -> Path:
    """The MNIST model in int8, every image routed alone."""
    target = tmp_path_factory.mktemp("low") / "low.vmoe"
    export_bundle(mnist_checkpoint, target, capacity=[0.5], k=[2], precision="int8", validate=False)
    return target


@pytest.fixture
def named_bundle(mnist_bundle: Path, tmp_path: Path) -> Path:
    """The MNIST bundle with odd names for its classes."""
    target = tmp_path / "named.vmoe"
    shutil.copytree(mnist_bundle, target)
    raw = json.loads((target / "manifest.json").read_text())
    (target / "manifest.json").write_text(json.dumps({**raw, "class_names": NAMES}))
    return target


def found_by(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """What the JSON says of the images."""
    lines, complaints = run(capsys, *arguments, "-q", "--json", "-")
    assert complaints == []
    content: dict[str, Any] = json.loads("\n".join(lines))
    found: dict[str, Any] = content["on_images"]
    return found


# What it finds


def test_the_json_has_the_numbers_of_all_whole_groups(
    mnist_bundle: Path, digits: Path, mnist_images: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    found = found_by(capsys, mnist_bundle, "--images", digits, "--profile", "c0.3-k2")
    images, labels = mnist_images["images"][:64], mnist_images["labels"][:64]
    with Engine.load(mnist_bundle) as engine:
        logits, routing = engine.logits_and_routing(images, "c0.3-k2")
        assert found["backend"] == engine.backend_description
    assert (found["images"], found["left_over"], found["labelled"], found["group"]) == (64, 6, True, "16")
    assert (found["bundle"], found["source"], found["profile"]["name"]) == (mnist_bundle.name, str(digits), "c0.3-k2")
    assert found["top1"] == np.mean(logits.argmax(1) == labels)
    assert (found["others"], found["neighbours"], found["notes"]) == ([], [], [])
    assert list(found["layers"]) == LAYERS
    for name, layer in found["layers"].items():
        kept, expert = routing[name].kept, routing[name].expert
        assert layer["load"] == [np.count_nonzero(kept & (expert == e)) for e in range(8)]
        assert layer["asked"] == [np.count_nonzero(expert == e) for e in range(8)]
        assert layer["pairs_dropped"] == pytest.approx(1 - kept.mean())
        assert layer["patches_dropped"] == pytest.approx(1 - routing[name].patch_mask().mean())
        assert (sum(layer["gates_kept"]), sum(layer["gates_dropped"])) == (kept.sum(), (~kept).sum())
        assert np.shape(layer["class_weight"]) == (10, 8)
        assert layer["class_images"] == np.bincount(labels, minlength=10).tolist()


def test_the_json_has_the_card_as_well(mnist_bundle: Path, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def content(*arguments: object) -> dict[str, Any]:
        found: dict[str, Any] = json.loads("\n".join(run(capsys, mnist_bundle, "-q", "--json", "-", *arguments)[0]))
        return found

    with_images, card = content("--images", digits), content()
    assert with_images.pop("on_images")["profile"]["name"] == card["profiles"][0]["name"]
    assert with_images == card


def test_classes_without_images_are_null(mnist_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((16, 28, 28), np.uint8), labels=np.full(16, 3))
    layers = found_by(capsys, mnist_bundle, "--images", tmp_path / "x.npz")["layers"]
    for layer in layers.values():
        assert [set(weights) == {None} for weights in layer["class_weight"]] == [index != 3 for index in range(10)]


def test_the_text_says_it_in_words(mnist_bundle: Path, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines, complaints = run(capsys, mnist_bundle, "--images", digits, "--profile", "c0.3-k2")
    assert complaints == []
    assert max(map(len, lines)) <= 80
    found = found_by(capsys, mnist_bundle, "--images", digits, "--profile", "c0.3-k2")
    heads = [line for line in lines if line and not line.startswith(" ")]
    assert heads == [mnist_bundle.name, "MoE layers", *LAYERS]
    assert row(lines, "profile") == "c0.3-k2: capacity ratio 0.3 in whole places, k 2, BPR"
    assert row(lines, "images").startswith("64 of ") and row(lines, "images").endswith(
        "6 left over that make no whole group"
    )
    assert row(lines, "top-1") == f"{found['top1']:.2%}"
    for name, layer in found["layers"].items():
        (line,) = (line for line in lines if line.startswith(f"  {name} "))
        assert line.split()[1:3] == [f"{layer['pairs_dropped']:.2%}", f"{layer['patches_dropped']:.2%}"]
        table = lines[lines.index(name) + 2 : lines.index(name) + 10]
        loads = [[f"{load:,.0f}", f"{asked:,}"] for load, asked in zip(layer["load"], layer["asked"], strict=True)]
        assert [[line.split()[1], line.split()[3]] for line in table] == loads
        best = np.argmax(layer["class_weight"], axis=0)
        assert [int(line.split()[5]) for line in table] == best.tolist()


def test_names_are_printed_as_they_are_and_steer_nothing(
    named_bundle: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "\n".join(run(capsys, named_bundle, "--images", digits)[0])
    assert "[/b]one (0." in text and "two\\x1b[2J (0." in text and "\x1b" not in text
    assert "ninenineni" in text and "nine" * 6 not in text


def test_other_bundles_stand_beside(
    mnist_bundle: Path, mnist_image_bundle: Path, low_bundle: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (
        mnist_image_bundle,
        "--with",
        low_bundle,
        "--with",
        mnist_bundle,
        "--images",
        digits,
        "--profile",
        "c0.3-k1",
    )
    arguments = (*arguments, "--interference", 3)
    found = found_by(capsys, *arguments)
    assert [(other["bundle"], other["precision"], other["group"]) for other in found["others"]] == [
        (low_bundle.name, "int8", "image"),
        (mnist_bundle.name, "fp32", "16"),
    ]
    for other in found["others"]:
        assert other["agreement"]["images"] == 64
        assert 0.5 < other["agreement"]["same_top1"] <= 1 and other["agreement"]["max_difference"] > 0
        assert list(other["agreement"]["same_experts"]) == LAYERS
    measured = {one["bundle"]: one["interference"] for one in found["neighbours"]}
    assert list(measured) == [mnist_image_bundle.name, low_bundle.name, mnist_bundle.name]
    assert {(m["images"], m["sets"], m["images_per_call"]) for m in measured.values()} == {(64, 3, 16)}
    assert [m["max_difference"] == 0 for m in measured.values()] == [True, True, False]
    lines, _ = run(capsys, *arguments)
    heads = [line for line in lines if line and not line.startswith(" ")]
    assert heads[-3:] == [
        f"Agreement with {mnist_image_bundle.name}",
        "Tokens that the same experts keep",
        "Interference: how far answers move with neighbours",
    ]
    assert max(map(len, lines)) <= 80


def test_interference_in_groups_names_the_remedy(
    mnist_bundle: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (note,) = found_by(capsys, mnist_bundle, "--images", digits, "--interference", 1)["notes"]
    assert "--group image" in note


@pytest.mark.parametrize(
    ("name", "note", "pictures"),
    [
        ("v2-dense", "A dense ViT has no routers", []),
        ("v3-soft", "A Soft MoE drops nothing", ["classes", "experts", "gates", "load"]),
        ("v3-choice", "the experts choose", ["capacity-encoderblock_1", "classes", "experts", "gates", "load", "patches"]),
        ("v3-ensemble", "no top-1", ["capacity-encoderblock_1", "experts", "gates", "load", "patches"]),
        ("v1-fp32", "don't say which expert", ["capacity-encoderblock_1", "classes", "experts", "gates", "load", "patches"]),
    ],
)
def test_every_kind_and_format_says_what_does_not_apply(
    *, name: str, note: str, pictures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 12, 12, 3), np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(6))
    out = tmp_path / "pictures"
    found = found_by(capsys, BUNDLES / name, "--images", tmp_path / "x.npz", "--out", out, "--interference", 2)
    assert any(note in sentence for sentence in found["notes"])
    assert list(found["layers"]) == ([] if name == "v2-dense" else ["encoderblock_1"])
    assert found["neighbours"][0]["interference"]["max_difference"] == 0
    assert sorted(path.name for path in out.glob("*")) == [f"{picture}.png" for picture in pictures]
    lines, _ = run(capsys, BUNDLES / name, "--images", tmp_path / "x.npz")
    assert any(note.split(maxsplit=1)[0] in line for line in lines)


def test_a_manifest_without_sizes_still_gives_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((6, 12, 12, 3), np.uint8))
    target = changed(tmp_path, "v3-fp32", model={})
    found = found_by(capsys, target, "--images", tmp_path / "x.npz", "--out", tmp_path / "out")
    assert found["layers"]["encoderblock_1"]["patches_dropped"] is None
    assert any(note.startswith("No patches are drawn: the bundle's manifest doesn't say") for note in found["notes"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["gates.png", "load.png"]


def test_pictures_of_a_folder_are_labelled_by_a_file(
    mnist_image_bundle: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(6):
        Image.fromarray(mnist_images["images"][index]).save(tmp_path / f"{index}.png")
    rows = [f"{index}.png,{mnist_images['labels'][index]}" for index in (3, 1, 5)]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    arguments = (mnist_image_bundle, "--images", tmp_path, "--profile", "c1.05-k2")
    found = found_by(capsys, *arguments, "--labels", tmp_path / "labels.csv")
    assert (found["images"], found["top1"]) == (3, 1.0)
    found = found_by(capsys, *arguments)
    assert (found["images"], found["top1"], found["labelled"]) == (6, None, False)
    assert found["notes"] == ["Without labels it is not known which classes go to which experts."]
    assert found["layers"]["encoderblock_0"]["class_weight"] is None


# Pictures


def test_pictures_are_written_whole_and_replaced(named_bundle: Path, digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "pictures"
    out.mkdir()
    (out / "load.png").write_text("an old one")
    assert main([str(named_bundle), "--images", str(digits), "--out", str(out), "-q"]) == 0
    names = ["classes", "experts", "gates", "load", "patches", *(f"capacity-{layer}" for layer in LAYERS)]
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{name}.png" for name in names)
    for path in out.iterdir():
        with Image.open(path) as picture:
            picture.load()
            assert 400 < picture.width < 3000 and 300 < picture.height < 3000


@pytest.fixture(scope="module")
def samples(mnist_bundle: Path, mnist_images: dict[str, np.ndarray]) -> Samples:
    with Engine.load(mnist_bundle, profile="c0.3-k1") as engine:
        source = ImageSource(mnist_images["images"][:16], mnist_images["labels"][:16].astype(np.int64))
        return take_samples(engine, source, engine.profile)


def overlay(figure: Any, row: int, column: int, columns: int) -> np.ndarray:
    """The colours RGBA that lie over the patches of a panel; beside column 0, which is the image."""
    layers = figure.axes[row * columns + column].images
    return np.asarray(layers[1].get_array())


def test_samples_are_the_first_images_at_rising_capacity(
    samples: Samples, mnist_bundle: Path, mnist_images: dict[str, np.ndarray]
) -> None:
    images = mnist_images["images"][:16]
    np.testing.assert_allclose(samples.pixels[..., 0] * 255, images[:6], atol=1e-3)
    assert [frame.name for frame in samples.frames] == ["c0.1-k1", "c0.25-k1", "c0.3-k1", "c0.5-k1", "c1-k1", "c2-k1"]
    with Engine.load(mnist_bundle) as engine:
        for frame in samples.frames:
            logits, routing = engine.logits_and_routing(images, frame.name)
            assert frame.answers is not None and frame.answers.tolist() == logits[:6].argmax(1).tolist()
            for layer in LAYERS:
                np.testing.assert_array_equal(frame.patches[layer].processed > 0, routing[layer].patch_mask()[:6])
    assert samples.own is samples.frames[2]


def test_dropped_patches_are_greyed_and_no_others(samples: Samples) -> None:
    figure = picture_kept(samples, None)
    for row_, column in np.ndindex(6, 5):
        alpha = overlay(figure, row_, column + 1, 6)[..., 3]
        np.testing.assert_array_equal(alpha > 0, samples.own.patches[LAYERS[column]].processed[row_] == 0)
        assert set(alpha[alpha > 0]) <= {0.86}
    frames = picture_capacities(samples, LAYERS[3], None)
    for row_, column in np.ndindex(6, 6):
        alpha = overlay(frames, row_, column + 1, 7)[..., 3]
        processed = samples.frames[column].patches[LAYERS[3]].processed[row_]
        np.testing.assert_array_equal(alpha > 0, processed == 0)
        label = frames.axes[row_ * 7 + column + 1].get_xlabel()
        assert label.startswith(f"{(processed > 0).sum()} of 49, says ")


def test_patches_have_the_colour_and_the_number_of_their_expert(samples: Samples) -> None:
    figure = picture_experts(samples, None)
    colours = [to_rgb(colour) for colour in expert_colours(8)]
    for row_, column in np.ndindex(6, 5):
        expert = samples.own.patches[LAYERS[column]].expert[row_]
        tint = overlay(figure, row_, column + 1, 6)
        for place, number in np.ndenumerate(expert):
            expected = colours[number] if number >= 0 else to_rgb("#8c8c8c")
            assert tuple(tint[place][:3]) == expected
        texts = [text.get_text() for text in figure.axes[row_ * 6 + column + 1].texts]
        assert texts == [str(number) for number in expert.ravel() if number >= 0]


def test_charts_have_the_numbers(mnist_bundle: Path, mnist_images: dict[str, np.ndarray]) -> None:
    statistics = RoutingStatistics(8, 10)
    with Engine.load(mnist_bundle) as engine:
        statistics.add(engine.routing(mnist_images["images"][:32]), 32, mnist_images["labels"][:32])
    layers = statistics.layers()
    loads, gates, classes = chart_loads(layers), chart_gates(layers), chart_classes(layers, NAMES)
    for index, layer in enumerate(layers.values()):
        assert layer.asked is not None and layer.class_weight is not None
        bars = [bar.get_height() for bar in loads.axes[index].patches]
        np.testing.assert_allclose(bars, [*layer.load, *(layer.asked - layer.load)])
        bars = [bar.get_height() for bar in gates.axes[index].patches]
        np.testing.assert_allclose(bars, np.concatenate([layer.gates_kept, layer.gates_dropped]) / layer.asked.sum())
        (image,) = classes.axes[index].images
        np.testing.assert_array_equal(image.get_array(), layer.class_weight[~np.isnan(layer.class_weight).any(axis=1)])


def test_many_classes_are_ordered_by_their_heaviest_expert(mnist_bundle: Path, mnist_images: dict[str, np.ndarray]) -> None:
    labels = np.arange(48) * 5
    statistics = RoutingStatistics(8, 300)
    with Engine.load(mnist_bundle) as engine:
        statistics.add(engine.routing(mnist_images["images"][:48]), 48, labels)
    layers = statistics.layers()
    figure = chart_classes(layers, None)
    for index, layer in enumerate(layers.values()):
        assert layer.class_weight is not None
        drawn = np.asarray(figure.axes[index].images[0].get_array())
        assert (np.diff(drawn.argmax(axis=1)) >= 0).all()
        assert sorted(map(tuple, drawn)) == sorted(map(tuple, layer.class_weight[labels]))


@pytest.mark.parametrize("count", [1, 8, 32, 64])
def test_experts_have_colours_of_their_own(count: int) -> None:
    colours = expert_colours(count)
    assert len(set(colours)) == count and all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in colours)
    apart = min((np.abs(np.subtract(to_rgb(a), to_rgb(b))).max() for a in colours for b in colours if a != b), default=1)
    assert apart > (0.15 if count <= FEW else 0.015)


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
    digits: Path,
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
    paths = {path.stem: path for path in tmp_path.iterdir()} | {"NPZ": digits, "SOFT": BUNDLES / "v3-soft"}
    paths |= {"BUNDLE": mnist_bundle, "BUNDLE/pictures": mnist_bundle / "pictures", "CORRUPT/x": tmp_path / "CORRUPT" / "x"}
    before = sorted(tmp_path.rglob("*"))
    lines, complaints = run(capsys, mnist_bundle, *(paths.get(word, word) for word in words), "-q", code=code)
    assert lines == [] and len(complaints) == 1
    assert complaints[0].startswith("vmoe-inspect: ") and says in complaints[0]
    assert sorted(tmp_path.rglob("*")) == before and not (mnist_bundle / "pictures").exists()


@pytest.mark.parametrize(
    ("missing", "words", "says"),
    [
        ("rich", [], "needs rich"),
        ("matplotlib", ["--out", "pictures"], "--out needs matplotlib"),
        (None, ["-q", "--json", "report.json"], ""),
    ],
)
def test_what_is_not_installed_is_named_and_not_needed_without(
    missing: str | None, words: list[str], says: str, mnist_image_bundle: Path, digits: Path, tmp_path: Path
) -> None:
    gone = ("rich", "matplotlib") if missing is None else (missing,)
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({gone!r}))\n"
        "from vmoe_inspect.cli import main\ncode = main()\n"
        "assert not {'torch', 'onnx', 'vmoe_export'} & set(sys.modules)\nsys.exit(code)"
    )
    command = [sys.executable, "-c", script, str(mnist_image_bundle), "--images", str(digits), *words]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    if missing is None:
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
        assert json.loads((tmp_path / "report.json").read_text())["on_images"]["images"] == 70
        return
    assert ran.returncode == 1 and ran.stderr.count("\n") == 1
    assert says in ran.stderr and "pip install 'vmoe-export[bench]'" in ran.stderr


def test_a_terminal_sees_how_far_it_is(mnist_image_bundle: Path, digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main([str(mnist_image_bundle), "--images", str(digits), "--interference", "2"]) == 0
    assert "images/s" in terminal.getvalue() and "neighbours" in terminal.getvalue()


def test_pictures_that_can_not_be_written_are_one_sentence(
    mnist_image_bundle: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out" / "experts.png").mkdir(parents=True)
    lines, complaints = run(capsys, mnist_image_bundle, "--images", digits, "--out", tmp_path / "out", "-q", code=1)
    assert lines == [] and complaints == [f"vmoe-inspect: {tmp_path}/out/experts.png can't be written: Is a directory"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["experts.png", "patches.png"]


# Ctrl-C


@pytest.fixture
def interrupted(mnist_image_bundle: Path, mnist_data: Path, tmp_path: Path) -> Callable[[float], tuple[int, str]]:
    """Starts a long run, sends SIGINT after so many seconds, and returns the exit code and what was said."""
    command = [
        *(sys.executable, "-m", "vmoe_inspect", mnist_image_bundle, "--images", mnist_data, "--interference", 100_000),
        *("--out", tmp_path / "pictures", "--json", tmp_path / "report.json"),
    ]

    def start(seconds: float) -> tuple[int, str]:
        process = subprocess.Popen(
            [*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            preexec_fn=default_signals,  # noqa: PLW1509
        )  # fmt: skip
        try:
            time.sleep(seconds)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
        return process.returncode, said

    return start


@pytest.mark.parametrize("seconds", [0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.5])
def test_ctrl_c_at_any_moment_leaves_nothing(
    seconds: float, interrupted: Callable[[float], tuple[int, str]], tmp_path: Path
) -> None:
    code, said = interrupted(seconds)
    assert "Traceback" not in said
    # Python itself ends by the signal where it was starting, or making a class, when it came.
    assert code in (130, -signal.SIGINT)
    if code == 130:
        assert said == "vmoe-inspect: interrupted\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("picture", [0, 3])
def test_ctrl_c_while_a_picture_is_drawn_leaves_whole_ones(
    picture: int, mnist_image_bundle: Path, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from matplotlib.figure import Figure

    saved: list[object] = []
    save = Figure.savefig

    def interrupt(figure: Figure, target: Path, **options: Any) -> None:
        save(figure, target, **options)
        if len(saved) == picture:
            os.kill(os.getpid(), signal.SIGINT)
        saved.append(target)

    monkeypatch.setattr(Figure, "savefig", interrupt)
    lines, complaints = run(capsys, mnist_image_bundle, "--images", digits, "--out", tmp_path / "out", code=130)
    assert (lines, complaints) == ([], ["vmoe-inspect: interrupted"])
    left = sorted((tmp_path / "out").iterdir())
    assert len(left) == picture + 1
    for path in left:
        with Image.open(path) as whole:
            whole.load()


def test_a_bundle_that_is_replaced_meanwhile_is_one_sentence_or_the_new_one(
    mnist_image_bundle: Path, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    bundle = tmp_path / "own.vmoe"
    shutil.copytree(mnist_image_bundle, bundle)
    run_images = image_command.run_images

    def gone(*arguments: Any) -> Any:
        shutil.rmtree(bundle)
        return run_images(*arguments)

    monkeypatch.setattr(image_command, "run_images", gone)
    lines, complaints = run(capsys, bundle, "--images", digits, "--json", tmp_path / "report.json", code=1)
    assert lines == [] and len(complaints) == 1 and str(bundle) in complaints[0]
    assert not (tmp_path / "report.json").exists()
