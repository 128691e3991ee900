"""vmoe-inspect --images: what it finds, as JSON and in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_changes import BUNDLES
from named_bundles import with_odd_names
from PIL import Image
from test_inspect import changed, row, run

from vmoe_export import export_bundle
from vmoe_runtime import Engine

LAYERS = [f"encoderblock_{i}" for i in range(5)]


@pytest.fixture(scope="module")
def low_bundle(tmp_path_factory: pytest.TempPathFactory, mnist_checkpoint: Path) -> Path:
    """The MNIST model in int8, every image routed alone."""
    target = tmp_path_factory.mktemp("low") / "low.vmoe"
    export_bundle(mnist_checkpoint, target, capacity=[0.5], k=[2], precision="int8", validate=False)
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
    mnist_bundle: Path, mnist_digits: Path, mnist_images: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    found = found_by(capsys, mnist_bundle, "--images", mnist_digits, "--profile", "c0.3-k2")
    images, labels = mnist_images["images"][:64], mnist_images["labels"][:64]
    with Engine.load(mnist_bundle) as engine:
        logits, routing = engine.logits_and_routing(images, "c0.3-k2")
        assert found["backend"] == engine.backend_description
    assert (found["images"], found["left_over"], found["labelled"], found["group"]) == (64, 6, True, "16")
    assert (found["bundle"], found["source"], found["profile"]["name"]) == (mnist_bundle.name, str(mnist_digits), "c0.3-k2")
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


def test_the_json_has_the_card_as_well(mnist_bundle: Path, mnist_digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def content(*arguments: object) -> dict[str, Any]:
        found: dict[str, Any] = json.loads("\n".join(run(capsys, mnist_bundle, "-q", "--json", "-", *arguments)[0]))
        return found

    with_images, card = content("--images", mnist_digits), content()
    assert with_images.pop("on_images")["profile"]["name"] == card["profiles"][0]["name"]
    assert with_images == card


def test_classes_without_images_are_null(mnist_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((16, 28, 28), np.uint8), labels=np.full(16, 3))
    layers = found_by(capsys, mnist_bundle, "--images", tmp_path / "x.npz")["layers"]
    for layer in layers.values():
        assert [set(weights) == {None} for weights in layer["class_weight"]] == [index != 3 for index in range(10)]


def test_the_text_says_it_in_words(mnist_bundle: Path, mnist_digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines, complaints = run(capsys, mnist_bundle, "--images", mnist_digits, "--profile", "c0.3-k2")
    assert complaints == []
    assert max(map(len, lines)) <= 80
    found = found_by(capsys, mnist_bundle, "--images", mnist_digits, "--profile", "c0.3-k2")
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
    mnist_bundle: Path, mnist_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "\n".join(run(capsys, with_odd_names(mnist_bundle, tmp_path), "--images", mnist_digits)[0])
    assert "[/b]one (0." in text and "two\\x1b[2J (0." in text and "\x1b" not in text
    assert "ninenineni" in text and "nine" * 8 not in text


def test_other_bundles_stand_beside(
    mnist_bundle: Path, mnist_image_bundle: Path, low_bundle: Path, mnist_digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (
        mnist_image_bundle,
        "--with",
        low_bundle,
        "--with",
        mnist_bundle,
        "--images",
        mnist_digits,
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
    mnist_bundle: Path, mnist_digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (note,) = found_by(capsys, mnist_bundle, "--images", mnist_digits, "--interference", 1)["notes"]
    assert "--group image" in note


@pytest.mark.parametrize(
    ("name", "note", "pictures"),
    [
        ("v3-dense", "A dense ViT has no routers", []),
        ("v3-soft", "A Soft MoE drops nothing", ["classes", "experts", "gates", "load"]),
        ("v3-choice", "the experts choose", ["capacity-encoderblock_1", "classes", "experts", "gates", "load", "patches"]),
        ("v3-ensemble", "no top-1", ["capacity-encoderblock_1", "experts", "gates", "load", "patches"]),
        (
            "v3-plain",
            "don't say which expert",
            ["capacity-encoderblock_1", "classes", "experts", "gates", "load", "patches"],
        ),
    ],
)
def test_every_kind_and_format_says_what_does_not_apply(
    *, name: str, note: str, pictures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 12, 12, 3), np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(4))
    out = tmp_path / "pictures"
    found = found_by(capsys, BUNDLES / name, "--images", tmp_path / "x.npz", "--out", out, "--interference", 2)
    assert any(note in sentence for sentence in found["notes"])
    assert list(found["layers"]) == ([] if name == "v3-dense" else ["encoderblock_1"])
    assert found["neighbours"][0]["interference"]["max_difference"] == 0
    assert sorted(path.name for path in out.glob("*")) == [f"{picture}.png" for picture in pictures]
    lines, _ = run(capsys, BUNDLES / name, "--images", tmp_path / "x.npz")
    assert any(note.split(maxsplit=1)[0] in line for line in lines)


def test_a_manifest_without_sizes_still_gives_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 12, 12, 3), np.uint8))
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
