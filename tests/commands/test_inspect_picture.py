"""Tests for `vmoe inspect BUNDLE PICTURE`.

The command shows one picture at several settings, as text, as JSON and as a drawing.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import golden
import numpy as np
import pytest
from command_runs import Vmoe, kept_bundle
from damaged_files import copied_bundle, put
from matplotlib.colors import to_rgb
from named_bundles import ODD_NAMES, with_odd_names
from PIL import Image

from vmoe_runtime import Engine
from vmoe_runtime.images import to_batch
from vmoe_tools.inspect.one_picture import PictureReport, SettingAnswer
from vmoe_tools.patch_pictures import expert_colours, picture_settings
from vmoe_tools.program import printable

PROFILES = ("c0.3-k1", "c0.3-k2", "c1.05-k1", "c1.05-k2")


@pytest.fixture
def nine(tmp_path: Path, mnist_images: dict[str, np.ndarray]) -> Path:
    """Write an image of a nine. Only the cheapest setting classifies it wrongly: as a seven."""
    Image.fromarray(mnist_images["images"][101]).save(tmp_path / "nine.png")
    return tmp_path / "nine.png"


def test_every_setting_has_its_answer_and_the_experts_of_each_token(
    nine: Path, mnist_image_bundle: Path, vmoe: Vmoe
) -> None:
    found = vmoe.json("inspect", mnist_image_bundle, nine)["on_picture"]
    flops = [setting["flops_per_image"] for setting in found["settings"]]
    assert sorted(setting["name"] for setting in found["settings"]) == sorted(PROFILES) and flops == sorted(flops)
    assert (found["picture"], found["grid"]) == (str(nine), [7, 7])
    with Engine.load(mnist_image_bundle) as engine:
        for setting in found["settings"]:
            logits, routing = engine.logits_and_routing(nine, setting["name"])
            assert [found["index"] for found in setting["classes"]] == np.argsort(-logits[0]).tolist()
            (run,) = vmoe.json("run", mnist_image_bundle, nine, "--profile", setting["name"], "--top", 10)["images"]
            assert setting["classes"] == run["classes"]
            for name, layer in routing.items():
                kept = [layer.expert[0, token][layer.kept[0, token]].tolist() for token in range(50)]
                assert setting["experts"][name] == kept and setting["tokens"][name] == list(range(50))
        merged = engine.routing(nine, "c0.3-k1-r8")
    (setting,) = vmoe.json("inspect", mnist_image_bundle, nine, "--profile", "c0.3-k1-r8")["on_picture"]["settings"]
    assert setting["tokens"] == {name: layer.token[0].tolist() for name, layer in merged.items()}
    assert [setting["classes"][0]["index"] for setting in found["settings"]] == [7, 9, 9, 9] and found["flips"] == [1]


def test_the_text_says_where_the_answer_flips_and_fits_80_columns(
    nine: Path, mnist_image_bundle: Path, tmp_path: Path, vmoe: Vmoe
) -> None:
    out = vmoe.run("inspect", mnist_image_bundle, nine)[0]
    words = " ".join(out.split())
    assert "to the most expensive one, the answer flips from class 7 to class 9 at c0.3-k2." in words
    assert all(len(line) < 80 for line in out.splitlines()[1:])  # only the first line, with the path, may be longer
    with Engine.load(mnist_image_bundle) as engine:
        routing = engine.routing(nine, "c0.3-k1")["encoderblock_3"]
    rows = np.where(routing.patch_mask()[0], routing.expert[0, 1:, 0].reshape(7, 7).astype(str), ".")
    shown = out.partition("encoderblock_3\n")[2].splitlines()
    assert shown[0].split()[0] == "c0.3-k1" and [line.split()[0] for line in shown[1:8]] == ["".join(row) for row in rows]

    two = ("--profile", "c1-k1", "--profile", "c1-k2", "--pool")
    named = with_odd_names(mnist_image_bundle, tmp_path)
    out = vmoe.run("inspect", named, nine, *two)[0]
    assert "Every setting answers nine" in out and "c1-k2-pool" in out and out.count("\x1b") == 0
    named = copied_bundle(mnist_image_bundle, tmp_path / "steering.vmoe", put("class_names", ["\x1b[2J\x9b\u202e"] * 10))
    out = vmoe.run("inspect", named, nine)[0]
    assert r"flips from \x1b[2J\x9b\u202e to" in " ".join(out.split()) and not {*"\x1b\x9b\u202e"} & {*out}
    many = [word for ratio in range(1, 9) for word in ("--profile", f"c{ratio}-k1-vanilla-pool")]
    out = vmoe.run("inspect", mnist_image_bundle, nine, *many)[0]
    assert max(map(len, out.splitlines()[1:])) < 80 and len(re.findall("c8-k1-vanilla-pool", out)) > 5
    assert printable(ODD_NAMES[9])[:4] == "nine"


def test_the_drawing_has_the_expert_of_each_patch_and_marks_other_answers(
    nine: Path, mnist_image_bundle: Path, tmp_path: Path, vmoe: Vmoe
) -> None:
    out = tmp_path / "settings.png"
    raw = vmoe.json("inspect", mnist_image_bundle, nine, "-o", out)["on_picture"]
    with Image.open(out) as picture:
        assert picture.width > 800 and picture.height > 800
    for setting in raw["settings"]:
        setting["classes"] = tuple((found["index"], found["probability"]) for found in setting["classes"])
    settings = tuple(SettingAnswer(**setting) for setting in raw["settings"])
    report = PictureReport(**{**raw, "settings": settings, "grid": tuple(raw["grid"])})
    with Engine.load(mnist_image_bundle) as engine:
        figure = picture_settings(report, to_batch(nine, engine.manifest.input), engine.manifest)
    colours = [to_rgb(colour) for colour in [*expert_colours(8), "#8c8c8c"]]
    for row, layer in enumerate(settings[0].experts):
        for column, setting in enumerate(settings):
            drawn = np.asarray(figure.axes[row * 5 + column + 1].images[1].get_array())
            for patch, experts in enumerate(setting.experts[layer][1:]):
                assert tuple(drawn[divmod(patch, 7)][:3]) == colours[experts[0] if experts else -1]
    titles = [axes.title for axes in figure.axes[1:5]]
    assert titles[0].get_text().startswith("c0.3-k1\nclass 7, ")
    assert titles[0].get_color() != titles[1].get_color() == titles[3].get_color()


@pytest.mark.parametrize("kind", ["soft", "choice"])
def test_models_of_other_kinds_are_shown_and_drawn(kind: str, nine: Path, tmp_path: Path, vmoe: Vmoe) -> None:
    drawn, out = tmp_path / "drawn.svg", tmp_path / "found.json"
    text = vmoe.run("inspect", kept_bundle(kind), nine, "-o", drawn, "--json", out)[0]
    assert "Every setting answers" in text or "The answer flips" in text
    assert drawn.exists() and "of several, the one with the largest gate, or share in a Soft MoE" in " ".join(text.split())
    for setting in json.loads(out.read_text())["on_picture"]["settings"]:
        assert len(setting["experts"]) == 1
        for layer in setting["experts"].values():
            numbers = {len(token) for token in layer}
            assert numbers == {4} if kind == "soft" else 0 in numbers


@pytest.mark.parametrize("kind", ["soft", "choice", "plain"])
def test_a_model_description_of_other_tokens_leaves_nothing_to_draw(
    kind: str, nine: Path, tmp_path: Path, vmoe: Vmoe
) -> None:
    bundle = copied_bundle(kept_bundle(kind), tmp_path / "other.vmoe", put("model/patch_size", [6, 6]))
    assert vmoe.json("inspect", bundle, nine)["on_picture"]["grid"] is None


def test_a_dense_model_has_an_answer_and_nothing_to_draw(nine: Path, tmp_path: Path, vmoe: Vmoe) -> None:
    bundle = golden.bundle("g4", tmp_path / "dense.vmoe")
    out = vmoe.run("inspect", bundle, nine)[0]
    assert "dense.vmoe " in out and "A dense ViT has no routers" in out and "the expert of each patch" not in out
    assert "a dense ViT has none" in vmoe.complaint(2, "inspect", bundle, nine, "-o", "x.png")
