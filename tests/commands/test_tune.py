"""Check that `vmoe bench --tune` searches settings on one half of the images.

It must measure the results on the other half.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_runs import QUICK, Vmoe, kept_bundle, noise, npz

from vmoe_measure.flops import ModelShape, dense_flops
from vmoe_runtime import Engine
from vmoe_runtime.bundle.reader import Bundle
from vmoe_tools.bench import tuning
from vmoe_tools.bench.tuning import full_setting

pytestmark = pytest.mark.long

DROP = 0.05


@pytest.fixture
def images(mnist_images: dict[str, np.ndarray], tmp_path: Path) -> dict[str, np.ndarray]:
    """Return 160 digits, and write them to tmp_path / "digits.npz". Half of them are for the search."""
    digits = {name: mnist_images[name][:160] for name in ("images", "labels")}
    np.savez(tmp_path / "digits.npz", **digits)
    return digits


@pytest.fixture(autouse=True)
def _few_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "MOST_TRIALS", 30)


def right_of(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return logits.argmax(axis=1) == labels


def test_settings_are_found_on_one_half_and_tested_on_the_other(
    mnist_image_bundle: Path, images: dict[str, np.ndarray], tmp_path: Path, vmoe: Vmoe
) -> None:
    bundle, json_file = Path(shutil.copytree(mnist_image_bundle, tmp_path / "own.vmoe")), tmp_path / "found.json"
    words = ("bench", bundle, "--tune", "--max-drop-in-accuracy", DROP, "--images", tmp_path / "digits.npz", *QUICK)
    words = (*words, "--add-profile")
    text, notes = vmoe.run(*words, "--json", json_file)
    report: dict[str, Any] = json.loads(json_file.read_text())
    tuned, points = report["tuned"], report["points"]
    assert (tuned["searched_images"], tuned["tested_images"], tuned["truth"]) == (80, 80, "labels")
    full, single, cascade = tuned["results"]
    assert [one["role"] for one in tuned["results"]] == ["full", "setting", "cascade"]
    assert full["profile"] == "c1.05-k2" and points[report["recommended"]]["profile"] == single["profile"]
    assert cascade["flops_of_dense"] < single["flops_of_dense"] < full["flops_of_dense"]
    assert list(Bundle.open(bundle).manifest.profiles)[-1] == single["profile"]
    # A tuned profile must run on every backend. This bundle can't merge tokens with standard ops, so no profile that merges
    # tokens is added.
    assert "no setting that merges tokens is tried" in notes and not any("-r" in str(one) for one in tuned["results"])
    assert any("-r" in str(one) for one in vmoe.json(*words[:-1])["tuned"]["results"])
    shown = f'first="{cascade["profile"]}", then="{cascade["then"]}", margin={cascade["margin"]!r}'
    assert f"cascade({shown})".replace(" ", "") in "".join(text.split())  # the text may wrap
    search, test = ({name: array[which::2] for name, array in images.items()} for which in (0, 1))
    with Engine.load(bundle, threads=1) as engine:
        dense = dense_flops(ModelShape.of(engine.manifest.model))
        two_steps = engine.cascade(first=cascade["profile"], then=cascade["then"], margin=cascade["margin"])
        calls = [lambda batch: engine(batch, full["profile"]), lambda batch: engine(batch, single["profile"]), two_steps]
        for one, call in zip(tuned["results"], calls, strict=True):
            assert one["top1"] == right_of(call(test["images"]), test["labels"]).mean(), one
            assert one["top1_low"] < one["top1"] < one["top1_high"] and one["p50_ms"] > 0
            best, found = (right_of(known(search["images"]), search["labels"]).sum() for known in (calls[0], call))
            assert best - found <= DROP * 80, one
    assert single["flops_of_dense"] == points[report["recommended"]]["flops_per_image"] / dense
    again = vmoe.json(*words)["tuned"]
    for one in (*again["results"], *tuned["results"]):
        del one["p50_ms"]
    assert again == tuned


def test_without_labels_the_answers_of_the_full_setting_count_as_right(
    mnist_image_bundle: Path, images: dict[str, np.ndarray], tmp_path: Path, vmoe: Vmoe
) -> None:
    plain = npz(tmp_path / "plain.npz", images=images["images"])
    words = ("--tune", "--max-drop-in-accuracy", DROP, "--images", plain, "--profile", "c0.3-k2")
    tuned = vmoe.json("bench", mnist_image_bundle, *words, *QUICK)["tuned"]
    full, single = tuned["results"][:2]
    assert (tuned["truth"], full["profile"], full["top1"]) == ("c0.3-k2", "c0.3-k2", 1.0)
    with Engine.load(mnist_image_bundle, threads=1) as engine:
        answers = [engine(images["images"][1::2], one["profile"]).argmax(axis=1) for one in (full, single)]
    assert single["top1"] == np.mean(answers[0] == answers[1])


@pytest.mark.parametrize(("kind", "name"), [("fp32", "c1.05-k2"), ("choice", "c1.05"), ("ensemble", "c1.05-k2")])
def test_the_full_setting_is_the_official_routing_with_most_slots(kind: str, name: str) -> None:
    with Engine.load(kept_bundle(kind), threads=1) as engine:
        assert engine.profile is not None
        assert full_setting(engine.manifest, engine.profile).name == name


@pytest.mark.parametrize(
    ("kind", "says"),
    [("dense", "this bundle outputs features"), ("soft", "this model has no capacity; --merge 4")],
)
def test_a_model_with_nothing_to_set_has_nothing_to_search(kind: str, says: str, tmp_path: Path, vmoe: Vmoe) -> None:
    words = ("--tune", "--max-drop-in-accuracy", "1%", "--images", noise(tmp_path / "images.npz", 64), "-q", *QUICK)
    assert says in vmoe.complaint(2, "bench", kept_bundle(kind), *words)
