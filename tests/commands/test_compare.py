"""Tests for the option --compare of `vmoe bench` and `vmoe report`.

They compare a dense ViT with a V-MoE, and they check the ratios and the timing noise.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_runs import QUICK, Vmoe, kept_bundle, noise
from picture_file import write_pictures
from test_report import Elements
from test_sweep import capacities, point
from variants import Variant

from vmoe_export import export_bundle
from vmoe_runtime import Engine
from vmoe_tools.bench.point_result import comparison, mark

LIMIT = ("--max-drop-in-accuracy", "50%", *capacities(0.1, 1), *QUICK)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export a dense ViT for images of digits with a side of 32 pixels."""
    path = tmp_path_factory.mktemp("dense") / "dense.vmoe"
    variant = Variant("dense", "token", "learned", (8, 8), (32, 32), channels=1, classes=10)
    return export_bundle(variant.write(path.parent), path, validate=False, **variant.export_options).path


@pytest.mark.slow
def test_a_dense_model_of_another_size_is_a_row_a_mark_and_a_sentence(
    mnist_image_bundle: Path, dense: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path, vmoe: Vmoe
) -> None:
    paths = sorted(write_pictures(tmp_path, mnist_images["images"][:24], mnist_images["labels"]))
    words = (mnist_image_bundle, "--compare", dense, "--images", tmp_path, "--batch-size", 4, *LIMIT)
    found = vmoe.json("bench", *words)
    row = found["points"][2]
    assert (row["bundle"], row["profile"], row["batch_size"], row["images"]) == ("dense.vmoe", None, 4, 24)
    with Engine.load(dense) as engine:
        assert row["top1"] == np.mean(engine(paths).argmax(1) == [int(path.parent.name) for path in paths])
    assert row["flops_per_image"] == json.loads((dense / "manifest.json").read_bytes())["flops_per_image"]["dense"]
    assert [one["compared"] for one in found["points"]] == [False, False, True] and found["recommended"] < 2
    for one in found["points"]:
        assert one["speed_ratio"] == one["images_per_second"] / row["images_per_second"]
        assert one["flops_ratio"] == one["flops_per_image"] / row["flops_per_image"]
    how = "(faster|slower|as fast)"
    sentence = rf"c[01.]+-k1 is {how} .*dense\.vmoe( within timing noise)?: [0-9.]+ x its speed \([0-9.]+ - [0-9.]+ by"
    out = vmoe.run("bench", *words)[0]
    assert re.search(r"\n +dense\.vmoe +- .* 1\.00 +1\.00\n", out) and re.search(sentence, out)
    report = vmoe.json("report", *words, "-o", tmp_path / "r.html")
    assert (report["others"], report["points"][2]["top1"]) == ([2], row["top1"]) and report["recommended"] < 2
    page = Elements((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert re.search(sentence, page.text) and "A diamond is another model: dense.vmoe." in page.text
    charts = {str(tag["alt"]): str(tag["src"]) for name, tag in page.tags if name == "img"}
    (alt,) = (text for text in charts if text.startswith("Accuracy against time"))
    assert alt.endswith(f"; dense.vmoe {row['top1']:.4g}")
    assert ">dense.vmoe<" in base64.b64decode(charts[alt].partition(",")[2]).decode()


def test_features_are_timed_without_accuracy_and_without_images_any_model_is(
    mnist_image_bundle: Path, tmp_path: Path, vmoe: Vmoe
) -> None:
    others = ("--compare", kept_bundle("dense"), "--compare", kept_bundle("soft"))
    rows = vmoe.json("bench", mnist_image_bundle, *capacities(1), *others, "--batch-size", 2, *QUICK)["points"]
    assert [row["bundle"] for row in rows[1:]] == ["v3-dense", "v3-soft"] and rows[1]["speed_ratio"] == 1
    words = (kept_bundle("fp32"), *others, "--images", noise(tmp_path / "images.npz"), *LIMIT)
    out, err = vmoe.run("bench", *words, "--cascade")
    sentence = "v3-dense returns features, so it is timed without accuracy."
    label = "( within timing noise)?:"
    comparisons = rf"v3-dense{label} .* x its FLOPs\. c.* v3-soft{label} .* accuracy, compared with"
    assert sentence in err and re.search(comparisons, out)
    report = vmoe.json("report", *words, "-o", tmp_path / "r.html")
    assert [report["same"][index] is None for index in report["others"]] == [True, False] and sentence in report["notes"]
    assert "A diamond is another model: v3-soft." in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_a_difference_within_the_noise_is_called_so() -> None:
    dense = replace(point("x", 0.9, 100, 8, 0.05), bundle="dense.vmoe", profile=None, compared=True)
    others = [replace(dense, batch_size=4), dense, replace(dense, bundle="s.vmoe", profile="c1-k1")]
    for speed, says, certainty in (
        (130, "is faster than", ""),
        (70, "is slower than", ""),
        (104, "is as fast as", " within timing noise"),
    ):
        one = mark([point("p", 0.95, speed, 6, 0.05), *others])[0]
        assert (one.speed_ratio, one.flops_ratio) == (speed / 100, 0.75)
        interval = f"{speed / 100 * 0.95 / 1.05:.2f} - {speed / 100 * 1.05 / 0.95:.2f}"
        numbers = f"{speed / 100:.2f} x its speed ({interval} by the intervals of both), 0.75 x its FLOPs"
        sentences = [
            f"p {says} {name}{certainty}: {numbers}, 95% accuracy, compared with 90%."
            for name in ("dense.vmoe", "s.vmoe at c1-k1")
        ]
        assert comparison(one, others, "{:.0%}".format) == " ".join(sentences)


def test_what_can_not_be_compared_is_one_line(
    mnist_image_bundle: Path, dense: Path, mnist_digits: Path, tmp_path: Path, vmoe: Vmoe
) -> None:
    shutil.copytree(dense, tmp_path / "x.vmoe")
    words = ("bench", mnist_image_bundle, "--compare", tmp_path / "x.vmoe", "--images", mnist_digits, "-q", *QUICK)
    assert "x.vmoe: images have shape (1, 28, 28), and the model takes (N, 32, 32, 1)" in vmoe.complaint(1, *words)
    assert "is already measured" in vmoe.complaint(2, *words, "--compare", mnist_image_bundle)
    assert "v3-soft has 7 classes, and" in vmoe.complaint(2, *words, "--compare", kept_bundle("soft"))
    (tmp_path / "x.vmoe" / "model.onnx").write_bytes(b"damaged")
    assert "x.vmoe: " in vmoe.complaint(1, *words)
    (tmp_path / "x.vmoe" / "manifest.json").unlink()
    assert "x.vmoe is not a bundle: manifest.json: No such file" in vmoe.complaint(1, *words)
