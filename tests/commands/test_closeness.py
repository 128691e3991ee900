"""Tests for `vmoe bench` on several bundles.

They check how close each bundle's outputs are to those of the most exact bundle, and they check the recommendation.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_runs import Vmoe, npz
from test_sweep import point

from vmoe_export import export_bundle
from vmoe_runtime import Engine
from vmoe_runtime.precisions import EXACTNESS, PRECISIONS
from vmoe_tools.bench.closeness import Closeness, recommend_bundle


def bundles_of(checkpoint: Path, folder: Path, *precisions: str, **options: object) -> list[Path]:
    paths = [folder / f"{precision}.vmoe" for precision in precisions]
    for path, precision in zip(paths, precisions, strict=True):
        export_bundle(checkpoint, path, precision=precision, capacity=[1.05], k=[1], validate=False, **options)  # type: ignore[arg-type]
    return paths


def test_every_precision_has_a_place() -> None:
    assert sorted(EXACTNESS) == sorted(PRECISIONS)


def test_numbers_are_those_of_their_definition() -> None:
    random = np.random.default_rng(0)
    exact = random.standard_normal((300, 8)).astype(np.float32)
    near = exact + np.float32(0.3) * random.standard_normal((300, 8)).astype(np.float32)
    found = Closeness.of(near, exact, have_classes=True)
    cosines, nearest = [], []
    for ours, theirs in zip(near, exact, strict=True):
        cosines.append(float(ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs)))
    for rows in (near, exact):
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        nearest.append([int(np.argsort(-(unit @ row))[1]) for row in unit])
    assert found.agreement == np.mean(near.argmax(1) == exact.argmax(1)) < 1
    expected = [np.mean(cosines), np.quantile(cosines, 0.05), min(cosines)]
    assert [found.cosine_mean, found.cosine_p5, found.cosine_least] == pytest.approx(expected, abs=1e-6)
    assert found.same_neighbour == np.mean(np.equal(*nearest)) < 1


@pytest.mark.slow
def test_one_bundle_of_several_is_recommended(
    mnist_checkpoint: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path, vmoe: Vmoe
) -> None:
    int4, fp32, bf16 = bundles_of(mnist_checkpoint, tmp_path, "int4", "fp32", "bf16")
    images = mnist_images["images"][:200]
    saved = npz(tmp_path / "images.npz", images=images)
    asked = ("bench", int4, fp32, bf16, "--images", saved, "--duration", 1, "--threads", 1)
    found = vmoe.json(*asked)
    with Engine.load(fp32, threads=1) as exact, Engine.load(int4, threads=1) as engine:
        theirs, ours = exact(images), engine(images)
    by_bundle = {point["bundle"]: point for point in found["points"]}
    assert by_bundle["fp32.vmoe"]["agreement"] == by_bundle["fp32.vmoe"]["same_neighbour"] == 1
    assert by_bundle["int4.vmoe"]["agreement"] == np.mean(ours.argmax(1) == theirs.argmax(1))
    cosines = np.sum(ours * theirs, 1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert by_bundle["int4.vmoe"]["cosine_least"] == pytest.approx(cosines.min(), abs=1e-6)
    strict = vmoe.json(*asked, "--min-agreement", "100%")
    assert strict["points"][strict["recommended"]]["agreement"] == 1
    out, _ = vmoe.run(*asked, "--min-agreement", "100%")
    assert out.splitlines()[-1].startswith("Recommended: ")
    assert "cosine" in out


def test_the_recommended_bundle_is_as_much_faster_as_it_is_at_the_same_setting() -> None:
    slow, fast = (replace(point(name, None, speed), bundle="fp32") for name, speed in (("low", 100), ("high", 50)))
    fp32 = [replace(one, agreement=1.0) for one in (slow, fast)]
    int8 = [
        replace(one, bundle="int8", precision="int8", agreement=share) for one, share in zip(fp32, (0.9, 1), strict=True)
    ]
    int8[1] = replace(int8[1], images_per_second=110.0)
    chosen, sentence = recommend_bundle([*fp32, *int8], {"fp32": 4, "int8": 1}, 0.99)
    assert chosen == 3 and sentence.startswith("Recommended: int8 at high: 100.00% of 100 images")
    assert sentence.endswith("with fp32, at 2.20 x its speed and 0.25 x its size.")


def test_features_agree_by_their_neighbours(
    mnist_checkpoint: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path, vmoe: Vmoe
) -> None:
    bundles = bundles_of(mnist_checkpoint, tmp_path, "fp32", "int8", output="features")
    images = npz(tmp_path / "images.npz", images=mnist_images["images"][:100])
    found = vmoe.json("bench", *bundles, "--images", images, "--duration", 1, "--threads", 1, "--min-agreement", "1%")
    assert {point["agreement"] for point in found["points"]} == {None} and "recommended" in found
    assert all(point["same_neighbour"] > 0.5 for point in found["points"])
