"""Tests for `vmoe report`.

Its numbers must equal those from `vmoe bench` and from simple counts. Its page must show all its numbers.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bundle_changes import says
from command_runs import QUICK, Vmoe, kept_bundle, noise, npz
from damaged_files import copied_bundle, put
from test_sweep import capacities, point
from variants import Variant

from vmoe_export import export_bundle
from vmoe_runtime import Engine
from vmoe_tools.report.collect import find_fall
from vmoe_tools.report.contents import Fall, Report
from vmoe_tools.report.page import inlined
from vmoe_tools.report.words import cascade, opening

pytestmark = pytest.mark.long

HOSTILE = (
    "</script><b>",
    "<img src=x onerror=alert(1)>",
    "{{ 7*7 }}",
    "'\"&<!--",
    "</style>",
    "a\u2028b",
    "\x1b[31m",
    *"789",
)
ASKED = slice(64, 192)  # test images whose results differ between the settings


def data_of(page: str) -> Any:
    """Return the JSON data that the page contains."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


class Elements(HTMLParser):
    """The tags and texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, mnist_images: dict[str, np.ndarray]) -> Path:
    """Write 128 test images with their labels."""
    return npz(
        tmp_path_factory.mktemp("images") / "digits.npz", **{name: each[ASKED] for name, each in mnist_images.items()}
    )


def report_of(vmoe: Vmoe, page: Path, *words: object) -> tuple[str, dict[str, Any]]:
    """Make a report. Return its page and its numbers."""
    found = vmoe.json("report", *words, "-o", page, *QUICK)
    return page.read_text(encoding="utf-8"), found


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, mnist_image_bundle: Path, mnist_checkpoint: Path, images: Path
) -> tuple[str, dict[str, Any], list[str]]:
    """Make a report on bundles in two precisions. Return its page, its numbers, and the names of the files."""
    from vmoe_tools.program import main

    folder = tmp_path_factory.mktemp("report")
    low = folder.with_name("low.vmoe")
    export_bundle(mnist_checkpoint, low, capacity=[0.3], k=[1], precision="int8", validate=False)
    words = ["report", mnist_image_bundle, low, "--images", images, *capacities(0.1, 0.5, 2), "--batch-size", 32]
    words += ["--bpr", "--no-bpr", "--pool", "--no-pool", *QUICK]
    assert main([*map(str, words), "-q", "-o", str(folder / "r.html"), "--json", str(folder / "r.json")]) == 0
    names = sorted(path.name for path in folder.iterdir())
    return (folder / "r.html").read_text(encoding="utf-8"), json.loads((folder / "r.json").read_text()), names


# Numbers


def test_accuracy_kept_pairs_and_flops_are_those_of_the_bench(
    made: tuple[str, dict[str, Any], list[str]], mnist_image_bundle: Path, images: Path, vmoe: Vmoe
) -> None:
    words = (mnist_image_bundle, *capacities(0.1, 0.5, 2), "--bpr", "--no-bpr", "--pool", "--no-pool", "--images", images)
    theirs = {one["profile"]: one for one in vmoe.json("bench", *words, "--batch-size", 32, *QUICK)["points"]}
    page, report, _ = made
    own = [one for one in report["points"] if one["precision"] == "fp32"]
    assert len(own) == 12
    for one in own:
        for key in ("top1", "kept_pairs", "flops_per_image", "images", "expert_bytes_per_call"):
            assert one[key] == theirs[one["profile"]][key]
        assert f'<th scope="row">{one["profile"]}</th>' in page and f"{one['top1']:.2%}" in page
    shown = {(each["profile"], each["top1"], each["kept"]) for curve in data_of(page)["curves"] for each in curve}
    assert shown == {(one["profile"], one["top1"], one["kept_pairs"]) for one in own}
    assert [curve["kind"] for curve in report["curves"]] == ["pool", "bpr", "vanilla-pool", "vanilla"] * 2


def test_patches_loads_answers_and_classes_are_those_of_the_engine(
    made: tuple[str, dict[str, Any], list[str]], mnist_image_bundle: Path, mnist_images: dict[str, np.ndarray]
) -> None:
    report = made[1]
    labels = mnist_images["labels"][ASKED]
    samples = [sample["index"] for sample in report["samples"]]
    assert len(samples) == 12 and len(set(labels[samples])) == 10
    with Engine.load(mnist_image_bundle) as engine:
        for setting in report["settings"]:
            profile = report["points"][setting["point"]]["profile"]
            logits, routing = engine.logits_and_routing(mnist_images["images"][ASKED], profile)
            raw = np.frombuffer(base64.b64decode(setting["patches"]), np.uint8).reshape(5, 12, 49)
            answers = [(int(name.split()[1]), correct) for name, _, correct in setting["answers"]]
            assert answers == [(logits[i].argmax(), logits[i].argmax() == labels[i]) for i in samples]
            for index, layer in enumerate(routing.values()):
                kept, expert = layer.kept[samples, 1:, 0], layer.expert[samples, 1:, 0]
                np.testing.assert_array_equal(raw[index], np.where(kept, expert + 1, 0))
                counts = np.bincount(layer.expert[layer.kept], minlength=8)
                np.testing.assert_allclose(setting["layers"][index]["load"], counts / counts.sum(), atol=5e-5)


def test_the_page_begins_with_where_accuracy_falls_and_what_to_take(made: tuple[str, dict[str, Any], list[str]]) -> None:
    page, report, _ = made
    points, chosen = report["points"], report["points"][report["recommended"]]
    own = [one for one in points if one["precision"] == "fp32"]
    best = f"{max(one['top1'] for one in own) * 100:.1f} %"
    text, fall = Elements(page).text, report["fall"]
    last = f"down to ratio {points[fall['last_good']]['capacity_ratio']:g}"
    assert f"its best accuracy is {best}, with {points[fall['best']]['profile']} at" in text
    assert text.index(last) < text.index(f"Recommended: {chosen['profile']}") < text.index("Change the capacity")
    assert points[fall["best"]]["top1"] - points[fall["first_bad"]]["top1"] > 0.01
    assert report["agreements"][0]["bundle"] == "low.vmoe" and report["agreements"][0]["agreement"]["same_top1"] > 0.95
    assert report["cascades"] and "All cascades" in text


def test_only_a_cascade_that_is_faster_than_its_second_setting_is_named_and_drawn() -> None:
    alone = point("high", 0.98, 100)
    slow, fast = (replace(point("low", 0.98, speed), then="high", margin=0.1, escalated=0.1) for speed in (90, 110))
    parts: dict[str, Any] = dict.fromkeys(field.name for field in fields(Report))
    parts |= {"bundles": [SimpleNamespace(name="b")], "points": [point("low", 0.9, 150), alone], "max_drop": 0.01}
    assert cascade(Report(**{**parts, "cascades": [slow]})) is None
    both = Report(**{**parts, "cascades": [slow, fast]})
    assert "at 1.10 times its speed" in (cascade(both) or "") and both.faster_cascades == [fast]


def test_accuracy_falls_where_a_capacity_below_the_best_is_too_bad() -> None:
    tops = (0.90, 0.97, 0.95, 0.97, 0.975, 0.96)
    points = [
        replace(point(f"p{index}", top1, 10), setting={"capacity_ratio": float(index)}) for index, top1 in enumerate(tops)
    ]
    fall = find_fall(points, range(6), 0.01)
    assert fall is not None and (fall.best, fall.last_good, fall.first_bad) == (4, 3, 2)
    fall = find_fall(points, range(6), 0.1)
    assert fall is not None and (fall.best, fall.last_good, fall.first_bad) == (4, 0, None)
    assert find_fall([replace(one, top1=None) for one in points], range(6), 0.01) is None


def test_what_is_told_of_a_fall_does_not_contradict_itself() -> None:
    parts: dict[str, Any] = dict.fromkeys(field.name for field in fields(Report))
    points = [replace(point(f"p{index}", top1, 10), images=1) for index, top1 in enumerate((0.9696, 0.98))]
    parts |= {"bundles": [SimpleNamespace(name="b", summary="V-MoE")], "points": points, "effective": [None, None]}
    told = " ".join(opening(Report(**{**parts, "fall": Fall(1, 1, 0), "max_drop": 0.01}))).replace("\u00a0", " ")
    assert "On 1 image its best accuracy" in told and "stays within 1 point of that" in told
    assert told.endswith("it is 1.04 points lower.")


@pytest.mark.slow
def test_the_effective_ratio_is_told_where_it_is_far_from_the_requested_one(
    mnist_checkpoint: Path, images: Path, tmp_path: Path, vmoe: Vmoe
) -> None:
    bundle = tmp_path / "fours.vmoe"
    export_bundle(mnist_checkpoint, bundle, capacity=[0.3], k=[1], group="image", capacity_multiple_of=4, validate=False)
    words = (bundle, "--images", images, *capacities(0.1, 0.2, 0.64, 1), "--bpr", "--no-bpr", "--batch-size", 32)
    page, report = report_of(vmoe, tmp_path / "r.html", *words)
    # For 8 experts and groups of 50 tokens, the capacity ratios give each expert 4 or 8 slots. 0.2 and 0.64 give as many
    # slots as 0.1.
    effective = {one["capacity_ratio"]: ratio for one, ratio in zip(report["points"], report["effective"], strict=True)}
    assert effective == {0.1: 4 * 8 / 50, 1: 8 * 8 / 50}
    shown = [(each["slots"], each["effective"]) for curve in data_of(page)["curves"] for each in curve]
    assert shown == [(4, "0.64"), (8, "1.28")] * 2
    assert "at capacity ratio 1 (effectively 1.28)." in Elements(page).text and report["merged"]


@pytest.mark.slow
def test_neighbours_count_where_images_share_a_group(mnist_bundle: Path, images: Path, tmp_path: Path, vmoe: Vmoe) -> None:
    words = ("report", mnist_bundle, "--images", images, *capacities(0.2), "--bpr", *QUICK)
    out, _ = vmoe.run(*words, "-o", tmp_path / "r.html", "--json", tmp_path / "r.json")
    opening, written = out.splitlines()
    assert written.startswith(f"Wrote {tmp_path / 'r.html'}")
    text = Elements((tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert opening.partition(".")[0] in text and f"vmoe report {mnist_bundle}" in text
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["interference"]["max_difference"] > 0 and report["cascades"] == []
    assert "Images compete for slots here" in text


@pytest.mark.slow
def test_too_few_images_to_exchange_neighbours_are_not_said_to_be_routed_alone(
    mnist_bundle: Path, images: Path, tmp_path: Path, vmoe: Vmoe
) -> None:
    with np.load(images) as data:
        group = npz(tmp_path / "group.npz", **{name: each[:16] for name, each in data.items()})
    page, report = report_of(vmoe, tmp_path / "r.html", mnist_bundle, "--images", group, *capacities(0.5), "--bpr")
    assert report["interference"] is None and "takes at least 32 images" in Elements(page).text


# The page


@pytest.mark.slow
def test_patches_lie_over_the_pixels_that_they_are_made_of(mnist_checkpoint: Path, tmp_path: Path, vmoe: Vmoe) -> None:
    bundle, images = tmp_path / "b.vmoe", npz(tmp_path / "images.npz", images=np.zeros((2, 31, 31), np.uint8))
    export_bundle(mnist_checkpoint, bundle, capacity=[0.3], k=[1], image_size=(31, 31), validate=False)
    page, report = report_of(vmoe, tmp_path / "r.html", bundle, "--images", images, *capacities(0.5), "--bpr")
    (style, *_) = (attributes["style"] for tag, attributes in Elements(page).tags if tag == "canvas")
    assert report["grid"] == [7, 7] and style == f"height: {28 / 31:.4%}; width: {28 / 31:.4%}"


def test_the_page_is_one_file_that_loads_nothing(made: tuple[str, dict[str, Any], list[str]]) -> None:
    page, _, names = made
    assert names == ["r-accuracy.png", "r-experts.png", "r-patches.png", "r.html", "r.json"]
    assert len(page.encode()) < 5_000_000
    assert not re.search(r"https?://|@import|url\(", page)
    tags = Elements(page).tags
    for tag, attributes in tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("data:", "#")), (tag, attributes)
    assert "default-src 'none'" in page
    charts = [attributes for tag, attributes in tags if tag == "img" and str(attributes["src"]).startswith("data:image/svg")]
    assert len(charts) == 9 and all(attributes["alt"] for attributes in charts)


def test_an_inlined_module_loses_its_exports_and_no_other_word() -> None:
    exported = (
        "export const TEXT = 'export const it'; // export function\n"
        "export let count = 1;\n"
        "export class Export {}\n"
        "export function f() {\n  return `export ${TEXT}`;\n}\n"
        "export async function g() {}\n"
        "/* what others\nexport as a module */\n"
    )
    assert inlined(exported) == (
        "const TEXT = 'export const it'; // export function\n"
        "let count = 1;\n"
        "class Export {}\n"
        "function f() {\n  return `export ${TEXT}`;\n}\n"
        "async function g() {}\n"
        "/* what others\nexport as a module */\n"
    )


def test_the_script_of_the_page_imports_and_exports_nothing(made: tuple[str, dict[str, Any], list[str]]) -> None:
    script = re.search(r'<script type="module">(.*?)</script>', made[0], re.DOTALL)
    assert script and "function paintPatches(" in script[1]
    assert re.findall(r"^\s*(?:import|export)\b.*", script[1], re.MULTILINE) == []


def test_hostile_names_are_text(mnist_image_bundle: Path, images: Path, tmp_path: Path, vmoe: Vmoe) -> None:
    bundle = copied_bundle(mnist_image_bundle, tmp_path / "<i>&'\".vmoe", put("class_names", HOSTILE))
    says(put("source/name", "<script>alert(1)</script>"))(bundle)
    words = (bundle, "--images", images, *capacities(0.5), "--bpr", "--batch-size", 32)
    page, _ = report_of(vmoe, tmp_path / "r.html", *words)
    elements = Elements(page)
    tags = [tag for tag, _ in elements.tags]
    assert "i" not in tags and tags.count("script") == 2 and tags.count("style") == 1
    assert all("onerror" not in attributes for _, attributes in elements.tags)
    assert page.count("</script>") == 2
    assert any("{{ 7*7 }}" in text for text in elements.texts) and any(HOSTILE[0] in text for text in elements.texts)


@pytest.mark.slow
def test_without_labels_the_page_leaves_out_accuracy(
    mnist_image_bundle: Path, images: Path, tmp_path: Path, vmoe: Vmoe
) -> None:
    with np.load(images) as data:
        plain = npz(tmp_path / "plain.npz", images=data["images"])
    words = (mnist_image_bundle, "--images", plain, *capacities(0.1, 2), "--batch-size", 32)
    page, report = report_of(vmoe, tmp_path / "r.html", *words)
    assert (report["recommended"], report["fall"], report["cascades"]) == (None, None, [])
    assert "The images have no labels" in page and "Recommended" not in page and "Same answers against capacity" in page
    assert report["same"][report["curves"][0]["points"][-1]] == 1.0


def test_merged_patches_are_those_of_the_engine(
    mnist_image_bundle: Path, images: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path, vmoe: Vmoe
) -> None:
    words = (mnist_image_bundle, "--images", images, *capacities(0.3), "--merge", 0, "--merge", 8, "--batch-size", 32)
    page, report = report_of(vmoe, tmp_path / "r.html", *words)
    assert [curve["kind"] for curve in report["curves"]] == ["bpr-r0", "bpr-r8"]
    assert "were merged into one token" in Elements(page).text
    plain, merged = (np.frombuffer(base64.b64decode(setting["patches"]), np.uint8) for setting in report["settings"])
    with Engine.load(mnist_image_bundle) as engine:
        samples = mnist_images["images"][ASKED][[sample["index"] for sample in report["samples"]]]
        routing = engine.routing(samples, capacity=0.3, k=1, merge=8)
    for tokens, layer in zip(merged[plain.size :].reshape(5, 12, 49), routing.values(), strict=True):
        np.testing.assert_array_equal(tokens, layer.token[:, 1:])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ensemble", "choice"])
def test_bundles_of_every_kind_have_a_page(kind: str, tmp_path: Path, vmoe: Vmoe) -> None:
    words = (kept_bundle(kind), "--images", noise(tmp_path / "images.npz"), *capacities(0.3, 1))
    data = data_of(report_of(vmoe, tmp_path / "r.html", *words)[0])
    assert len(data["ratios"]) == 2 and all(setting["patches"] for curve in data["curves"] for setting in curve)


@pytest.mark.slow
def test_default_ratios_end_at_the_number_of_experts(tmp_path: Path, vmoe: Vmoe) -> None:
    checkpoint = Variant("one", "gap", "learned", (3, 3), (12, 12), moe=(1,), experts=1).write(tmp_path)
    bundle = export_bundle(checkpoint, tmp_path / "one.vmoe", capacity=[1], k=[1], validate=False).path
    report = report_of(vmoe, tmp_path / "r.html", bundle, "--images", noise(tmp_path / "images.npz"))[1]
    assert {one["profile"] for one in report["points"] if one["profile"]} > {"c0.1-k1", "c0.85-k1"}


@pytest.mark.slow
def test_default_ratios_begin_where_there_are_slots(tmp_path: Path, vmoe: Vmoe) -> None:
    checkpoint = Variant("many", "gap", "learned", (3, 3), (12, 12), moe=(1,), experts=12).write(tmp_path)
    bundle = tmp_path / "many.vmoe"
    export_bundle(checkpoint, bundle, router="experts-choice", rounding="round", capacity=[1], validate=False)
    report = report_of(vmoe, tmp_path / "r.html", bundle, "--images", noise(tmp_path / "images.npz"))[1]
    assert min(one["capacity_ratio"] for one in report["points"]) == 0.85
    words = (bundle, "--capacity", 0.1, "--images", tmp_path / "images.npz", "-o", tmp_path / "x.html")
    says = vmoe.complaint(2, "report", *words)
    assert "the capacity ratio 0.1 leaves no slot" in says


def test_curves_are_chosen(tmp_path: Path, vmoe: Vmoe) -> None:
    words = (kept_bundle("fp32"), "--images", noise(tmp_path / "images.npz"))
    axes = (*capacities(0.3, 1), "--k", 1, "--k", 2, "--no-bpr", "--pool", "--max-experts", 4)
    report = report_of(vmoe, tmp_path / "r.html", *words, *axes)[1]
    assert [curve["kind"] for curve in report["curves"]] == ["vanilla-pool-k1", "vanilla-pool-k2"]
    assert {one["profile"] for one in report["points"] if one["profile"]} == {
        f"c{ratio}-k{k}-vanilla-pool" for ratio in ("0.3", "1") for k in (1, 2)
    }


# Refusals


@pytest.mark.slow
def test_samples_that_there_is_no_room_for_are_left_out_and_a_larger_page_is_not_written(
    mnist_image_bundle: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vmoe: Vmoe
) -> None:
    words = ("report", mnist_image_bundle, "--images", images, *capacities(1), "--bpr", "--batch-size", 64, *QUICK)
    monkeypatch.setattr("vmoe_tools.report.plan.MOST_BYTES", 850_000)
    found = vmoe.json(*words, "-o", tmp_path / "small.html")
    assert len(found["samples"]) == 2 and "2 instead of 12 samples are shown, to keep the page small." in found["notes"]
    monkeypatch.setattr("vmoe_tools.report.plan.MOST_BYTES", 700_000)
    assert "would be larger than" in vmoe.complaint(2, *words, "-q", "-o", tmp_path / "large.html")
    assert not (tmp_path / "large.html").exists()
