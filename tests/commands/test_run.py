"""Tests for `vmoe run`: classes and probabilities of image files, and messages about unreadable files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from command_runs import Vmoe
from named_bundles import ODD_NAMES, with_odd_names
from picture_file import write_pictures
from PIL import Image

from vmoe_export import export_bundle
from vmoe_runtime import Engine

pytestmark = pytest.mark.fast


@pytest.fixture
def digits(tmp_path: Path, mnist_images: dict[str, np.ndarray]) -> list[Path]:
    """Write twenty numbered digits as PNG files to a folder with an unusual name."""
    return write_pictures(tmp_path / "my [b]digits", mnist_images["images"][:20])


@pytest.fixture
def named(tmp_path: Path, mnist_image_bundle: Path) -> Path:
    """Copy the MNIST bundle. Its class names contain control sequences and markup for the package rich."""
    return with_odd_names(mnist_image_bundle, tmp_path)


def run(vmoe: Vmoe, *arguments: object, code: int = 0) -> tuple[list[str], list[str]]:
    """Run `vmoe run` and check its exit code. Return its lines on standard output and those on standard error."""
    out, err = vmoe.run("run", *arguments, "--threads", 1, code=code)
    return out.splitlines(), err.splitlines()


def test_every_image_gets_its_likeliest_classes(named: Path, digits: list[Path], vmoe: Vmoe) -> None:
    lines, complaints = run(vmoe, named, *digits[:6], "--top", 1, "--profile", "c1.05-k1")
    with Engine.load(named, threads=1) as engine:
        answers = engine.classify(digits[:6], 1, profile="c1.05-k1")
    assert complaints == [] and len(lines) == 1 + 6
    for path, ((name, share),), line in zip(digits, answers, lines[1:], strict=False):
        assert all(word in line for word in (str(path), f"{share:.2%}", str(name).replace("\x1b", r"\x1b")[:20]))


def test_a_folder_is_its_pictures_and_a_setting_is_made_of_options(
    mnist_image_bundle: Path, digits: list[Path], vmoe: Vmoe
) -> None:
    words = (mnist_image_bundle, digits[0].parent, "--capacity", 0.5, "--k", 2, "--no-bpr", "--top", 1)
    report = vmoe.json("run", *words, "--threads", 1)
    assert report["profile"] == "c0.5-k2-vanilla"
    assert [image["image"] for image in report["images"]] == sorted(map(str, digits))
    with Engine.load(mnist_image_bundle, threads=1) as engine:
        expected = [answer[0] for answer in engine.classify(sorted(digits), 1, capacity=0.5, k=2, bpr=False)]
    assert [(c["index"], c["probability"]) for image in report["images"] for c in image["classes"]] == expected


def test_pictures_are_turned_as_exif_says_or_counted(mnist_image_bundle: Path, digits: list[Path], vmoe: Vmoe) -> None:
    exif, turned = Image.Exif(), [path.with_suffix(".turned.png") for path in digits[:5]]
    exif[0x112] = 8
    for path, noted in zip(digits, turned, strict=False):
        Image.open(path).rotate(-90).save(noted, exif=exif)
    asked = (mnist_image_bundle, *digits[:5], *turned, "-q", "--json", "-")
    lines, complaints = run(vmoe, *asked)
    assert complaints[-1].startswith("vmoe: the EXIF orientation of 5 pictures was ignored")
    lines, complaints = run(vmoe, *asked, "--exif")
    classes = [image["classes"] for image in json.loads("\n".join(lines))["images"]]
    assert complaints == [] and classes[:5] == classes[5:]


def test_json_on_standard_output_stands_alone(named: Path, digits: list[Path], vmoe: Vmoe) -> None:
    lines, table = run(vmoe, named, digits[0], "--top", 3, "--json", "-", "--backend", "onnxruntime")
    report = json.loads("\n".join(lines))
    with Engine.load(named, backend="onnxruntime", threads=1) as engine:
        (answer,) = engine.classify(digits[0], 3)
    assert list(report) == ["bundle", "profile", "backend", "images"]
    assert (report["bundle"], report["profile"], report["backend"]) == (str(named), "c0.3-k1", "onnxruntime")
    (image,) = report["images"]
    assert (image["image"], image["error"]) == (str(digits[0]), None)
    assert [(c["class"], c["probability"]) for c in image["classes"]] == answer
    assert [ODD_NAMES[c["index"]] for c in image["classes"]] == [c["class"] for c in image["classes"]]
    assert len(table) == 4
    assert run(vmoe, named, digits[0], "-q", "--json", "-")[1] == []


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_answered(
    mnist_image_bundle: Path, digits: list[Path], tmp_path: Path, vmoe: Vmoe
) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    bad = [tmp_path / "notes.txt", tmp_path / "absent.png"]
    order = [digits[0], bad[0], digits[1], bad[1], *digits[2:12]]
    lines, complaints = run(vmoe, mnist_image_bundle, *order, "--top", 1, "--json", tmp_path / "x.json", code=1)
    assert len(complaints) == 2
    for path, complaint in zip(bad, complaints, strict=True):
        assert complaint.startswith(f"vmoe: {path} is ")
    good = [path for path in order if path not in bad]
    assert [line.partition(".png")[0] + ".png" for line in lines[1:]] == [str(path) for path in good]
    report = json.loads((tmp_path / "x.json").read_text())["images"]
    assert all(c["class"] == str(c["index"]) for image in report for c in image["classes"])
    assert [Path(image["image"]) for image in report if image["error"]] == bad
    with Engine.load(mnist_image_bundle, threads=1) as engine:
        answers = [answer[0] for answer in engine.classify(good, 1)]
    assert [(c["index"], c["probability"]) for image in report for c in image["classes"]] == answers


def test_images_of_one_routing_group_are_answered_together(
    mnist_bundle: Path, digits: list[Path], mnist_images: dict[str, np.ndarray], vmoe: Vmoe
) -> None:
    (complaint,) = run(vmoe, mnist_bundle, *digits, code=2)[1]
    assert complaint.startswith("vmoe: 20 images don't fit: the bundle routes in groups (16) that need a multiple of 16")
    report = vmoe.json("run", mnist_bundle, *digits[:16], "--top", 1, "--threads", 1)
    with Engine.load(mnist_bundle, threads=1) as engine:
        expected = engine.classify(mnist_images["images"][:16], 1)
    assert [(c["index"], c["probability"]) for image in report["images"] for c in image["classes"]] == [
        answer[0] for answer in expected
    ]


def test_a_group_with_an_image_that_cannot_be_read_is_not_answered(
    mnist_bundle: Path, digits: list[Path], tmp_path: Path, vmoe: Vmoe
) -> None:
    bad = tmp_path / "absent.png"
    lines, complaints = run(vmoe, mnist_bundle, *digits[:15], bad, *digits[:16], "--top", 1, code=1)
    assert len(complaints) == 16
    assert complaints[15].startswith(f"vmoe: {bad} is not a readable image")
    assert complaints[0] == (f"vmoe: {digits[0]} is not answered: it shares a routing group with {bad}, which can't be read")
    assert len(lines) == 1 + 16
    with Engine.load(mnist_bundle, threads=1) as engine:
        assert [int(line.split()[-1]) for line in lines[1:]] == [a[0][0] for a in engine.classify(digits[:16], 1)]


def test_logits_that_are_no_numbers_are_said(
    mnist_image_bundle: Path, digits: list[Path], monkeypatch: pytest.MonkeyPatch, vmoe: Vmoe
) -> None:
    monkeypatch.setattr(Engine, "outputs", lambda self, images: {"logits": np.full((len(images), 10), np.nan, np.float32)})
    lines, complaints = run(vmoe, mnist_image_bundle, digits[0], "--json", "-", code=1)
    assert complaints[-1] == f"vmoe: {digits[0]} has no classes: the model's logits are not finite numbers"
    assert json.loads("\n".join(lines))["images"][0]["classes"] == []


def test_a_file_whose_name_is_no_text_is_classified(mnist_image_bundle: Path, digits: list[Path], vmoe: Vmoe) -> None:
    odd = digits[0].rename(digits[0].with_name("\udcff.png"))
    lines, _ = run(vmoe, mnist_image_bundle, odd, "--top", 1)
    assert r"\udcff.png" in lines[1]


def read_columns(path: Path) -> dict[str, Any]:
    """Read the columns of a results file, as lists."""
    if path.suffix == ".npz":
        with np.load(path) as data:
            return {name: values.tolist() for name, values in data.items()}
    if path.suffix == ".parquet":
        return dict(pyarrow.parquet.read_table(path).to_pydict())
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows] for name in rows[0]}


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".parquet"])
def test_a_file_has_the_classes_or_features_of_each_image(
    suffix: str, named: Path, digits: list[Path], mnist_checkpoint: Path, tmp_path: Path, vmoe: Vmoe
) -> None:
    features, out, bad = tmp_path / "features.vmoe", tmp_path / f"answers{suffix}", digits[0].with_name("a.png")
    export_bundle(mnist_checkpoint, features, output="features", validate=False)
    bad.write_text("no picture")
    assert "Wrote" in run(vmoe, named, *digits[:3], bad, "--top", 2, "-o", out, code=1)[0][-1]
    found, is_csv = read_columns(out), suffix == ".csv"
    with Engine.load(named, threads=1) as engine:
        answers = engine.classify(digits[:3], 2)
    assert found["image"] == [*map(str, digits[:3]), str(bad)] and "not a readable image" in found["error"][3]
    names, shares = (
        found[f"{name}_1"] if is_csv else [row[0] for row in found[name][:3]] for name in ("class", "probability")
    )
    assert names[:3] == [answer[0][0] for answer in answers]
    np.testing.assert_array_equal(np.array(shares[:3], float), [answer[0][1] for answer in answers])
    assert run(vmoe, features, *digits[:3], "-o", out, "-q") == ([], [])
    if suffix == ".parquet":
        # the column has the type string even if no image has an error
        assert pyarrow.parquet.read_schema(out).field("error").type == "string"
    found = read_columns(out)
    rows = [[float(found[f"features_{i}"][row]) for i in range(1, 65)] for row in range(3)] if is_csv else found["features"]
    with Engine.load(features, threads=1) as engine:
        np.testing.assert_array_equal(np.array(rows, np.float32), engine(digits[:3]))


def test_tokens_and_layers_are_written_to_npz_and_other_commands_refuse_or_work(
    digits: list[Path], mnist_checkpoint: Path, tmp_path: Path, vmoe: Vmoe
) -> None:
    tokens, both, out = tmp_path / "tokens.vmoe", tmp_path / "both.vmoe", tmp_path / "answers.npz"
    words = ("export", mnist_checkpoint, "--no-validate", "-q", "-o")
    vmoe.run(*words, tokens, "--output", "tokens", "--layers", "0,1")
    vmoe.run(*words, both, "--layers", "1")
    for bundle, names in ((tokens, ["tokens", "layer0", "layer1"]), (both, ["class", "index", "probability", "layer1"])):
        run(vmoe, bundle, *digits[:3], "-o", out, "-q")
        found = dict(np.load(out))
        assert list(found) == ["image", *names, "error"]
        with Engine.load(bundle, threads=1) as engine:
            expected = engine.outputs(digits[:3])
        for name in expected.keys() & found.keys():
            np.testing.assert_array_equal(found[name], expected[name])
        assert "only an .npz file can hold tokens" in vmoe.run("run", bundle, digits[0], "-o", "x.csv", code=2)[1]
        assert f"layer1 [{', '.join(map(str, expected['layer1'].shape[1:]))}]" in vmoe.run("inspect", bundle)[0]
        assert "layer1" in (bundle / "README.md").read_text()
        vmoe.run("bench", bundle, "--duration", 0.01, "--batch-size", 1, "--threads", 1, "-q")
    job = ("serve", "batch", "-q")
    for code, command, message in (
        (1, ("run", tokens, digits[0]), "vmoe run -o FILE.npz writes them, and services return them by infer"),
        (1, ("page", tokens, "-o", tmp_path / "page"), "it outputs tokens, and the page shows classes"),
        (2, (*job, tokens, digits[0].parent, tmp_path / "job"), "outputs tokens, not classes"),
        (2, (*job, both, digits[0].parent, tmp_path / "job", "--output-logits"), "a job writes one"),
    ):
        assert message in vmoe.run(*command, code=code)[1]
