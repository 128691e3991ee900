"""vmoe-report: its numbers are those of vmoe-bench and of plain counting, and its page holds whatever it is told."""

from __future__ import annotations

import base64
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from large_reports import large_report
from test_bench import QUICK
from test_sweep import point
from vmoe_tools.report.charts import Axis, Chart, Dot, Line, drawing
from vmoe_tools.report.colours import contrast, heat_colour, text_on
from vmoe_tools.report.findings import find_fall

from vmoe_export import export_bundle
from vmoe_runtime import Engine
from vmoe_tools.bench import cli as bench
from vmoe_tools.report import cli, pictures

pytestmark = pytest.mark.long

BUNDLES = Path(__file__).parents[1] / "data" / "bundles"
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
RATIOS = ("0.1", "0.5", "2")
ASKED = slice(64, 192)  # test images that the settings differ on


def data_of(page: str) -> Any:
    """What the page's script reads."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


class Elements(HTMLParser):
    """The tags of a page, and its texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, mnist_images: dict[str, np.ndarray]) -> Path:
    """128 test images with their labels."""
    path = tmp_path_factory.mktemp("images") / "digits.npz"
    np.savez(path, images=mnist_images["images"][ASKED], labels=mnist_images["labels"][ASKED])
    return path


@pytest.fixture(scope="module")
def plain_images(images: Path) -> Path:
    """The same without labels."""
    path = images.with_name("plain.npz")
    with np.load(images) as data:
        np.savez(path, images=data["images"])
    return path


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, mnist_image_bundle: Path, mnist_checkpoint: Path, images: Path
) -> tuple[str, dict[str, Any], list[str]]:
    """A report of two precisions: the page, the numbers, and the names of the files."""
    folder = tmp_path_factory.mktemp("report")
    low = folder.with_name("low.vmoe")
    export_bundle(mnist_checkpoint, low, capacity=[0.3], k=[1], precision="int8", validate=False)
    words = [mnist_image_bundle, low, "--images", images, "--sweep", *RATIOS, "--batch-size", 32, *QUICK, "-q"]
    assert cli.main([*map(str, words), "-o", str(folder / "r.html"), "--json", str(folder / "r.json")]) == 0
    names = sorted(path.name for path in folder.iterdir())
    return (folder / "r.html").read_text(encoding="utf-8"), json.loads((folder / "r.json").read_text()), names


# Numbers


def test_accuracy_kept_pairs_and_flops_are_those_of_vmoe_bench(
    made: tuple[str, dict[str, Any], list[str]], mnist_image_bundle: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [mnist_image_bundle, "--sweep", *RATIOS, "--order", "bpr", "vanilla", "--pool", "off", "on", "--images", images]
    assert bench.main([*map(str, words), "--batch-size", "32", *QUICK, "-q", "--json", "-"]) == 0
    theirs = {one["profile"]: one for one in json.loads(capsys.readouterr().out)["points"]}
    page, report, _ = made
    own = [one for one in report["points"] if one["precision"] == "fp32"]
    assert len(own) == 9
    for one in own:
        for key in ("top1", "kept_pairs", "flops_per_image", "images", "expert_bytes_per_call"):
            assert one[key] == theirs[one["profile"]][key]
        assert f"<title>{report['bundles'][0]['name']} {one['profile']}: {one['top1']:.2%}</title>" in page
    shown = [setting for curve in data_of(page)["curves"].values() for setting in curve]
    assert {(setting["profile"], setting["top1"], setting["kept"]) for setting in shown} == {
        (one["profile"], one["top1"], one["kept_pairs"]) for one in own
    }
    gates = {
        report["points"][setting["point"]]["profile"]: [
            [layer["gates_kept"], layer["gates_dropped"]] for layer in setting["layers"]
        ]
        for setting in report["settings"]
    }
    assert all([layer["gates"] for layer in setting["layers"]] == gates[setting["profile"]] for setting in shown)


def test_patches_loads_answers_and_classes_are_those_of_the_engine(
    made: tuple[str, dict[str, Any], list[str]], mnist_image_bundle: Path, mnist_images: dict[str, np.ndarray]
) -> None:
    report = made[1]
    labels = mnist_images["labels"][ASKED]
    samples = [sample["place"] for sample in report["samples"]]
    assert len(samples) == 12 and len(set(labels[samples])) == 10
    checked = 0
    with Engine.load(mnist_image_bundle) as engine:
        for setting in report["settings"]:
            profile = report["points"][setting["point"]]["profile"]
            logits, routing = engine.logits_and_routing(mnist_images["images"][ASKED], profile)
            raw = np.frombuffer(base64.b64decode(setting["patches"]), np.uint8).reshape(5, 12, 49)
            answers = [(int(name.split()[1]), right) for name, _, right in setting["answers"]]
            assert answers == [(logits[i].argmax(), logits[i].argmax() == labels[i]) for i in samples]
            for index, layer in enumerate(routing.values()):
                kept, expert = layer.kept[samples, 1:, 0], layer.expert[samples, 1:, 0]
                np.testing.assert_array_equal(raw[index], np.where(kept, expert + 1, 0))
                counts = np.bincount(layer.expert[layer.kept], minlength=8)
                np.testing.assert_allclose(setting["layers"][index]["load"], counts / counts.sum(), atol=5e-5)
                edges = np.arange(21) / 20
                for gates, told in ((layer.weight[layer.kept], "kept"), (layer.weight[~layer.kept], "dropped")):
                    in_bin = (gates >= edges[:-1, None]) & ((gates < edges[1:, None]) | (edges[1:, None] == 1))
                    assert setting["layers"][index][f"gates_{told}"] == in_bin.sum(axis=1).tolist()
                weights = np.zeros((10, 8))
                np.add.at(
                    weights,
                    (np.broadcast_to(labels[:, None, None], layer.kept.shape)[layer.kept], layer.expert[layer.kept]),
                    layer.weight[layer.kept],
                )
                weights /= 50 * np.bincount(labels)[:, None]
                of_classes = np.frombuffer(base64.b64decode(setting["classes"]), "<u2").reshape(5, 10, 8)
                np.testing.assert_allclose(of_classes[index] / 10_000, weights, atol=5.1e-5)
                checked += 1
    assert checked == 9 * 5
    found = report["class_map"]
    assert found["classes"] == [f"class {digit}" for digit in range(10)]
    assert found["images"] == np.bincount(labels).tolist() and found["followed"] == list(range(10))


def test_the_page_begins_with_where_accuracy_falls_and_what_to_take(made: tuple[str, dict[str, Any], list[str]]) -> None:
    page, report, _ = made
    points, chosen = report["points"], report["points"][report["recommended"]]
    best = max(one["top1"] for one in points)
    fitting = [one for one in points if one["top1"] >= best - 0.01 - 1e-9]
    assert chosen["images_per_second"] == max(one["images_per_second"] for one in fitting)
    text = " ".join("".join(Elements(page).texts).split())
    assert text.index("it is right on") < text.index(f"Recommended: {chosen['profile']}") < text.index("Turn the capacity")
    fall = report["fall"]
    assert f"down to ratio {points[fall['last_good']]['capacity_ratio']:g}" in text
    assert points[fall["best"]]["top1"] - points[fall["first_bad"]]["top1"] > 0.01
    assert report["agreements"][0]["bundle"] == "low.vmoe" and report["agreements"][0]["agreement"]["same_top1"] > 0.95


def test_accuracy_falls_where_a_capacity_below_the_best_is_too_bad() -> None:
    tops = (0.90, 0.97, 0.95, 0.97, 0.975, 0.96)
    points = [replace(point(f"p{place}", top1, 10), capacity_ratio=float(place)) for place, top1 in enumerate(tops)]
    fall = find_fall(points, range(6), 0.01)
    assert fall is not None
    assert (fall.best, fall.last_good, fall.first_bad) == (4, 3, 2)
    fall = find_fall(points, range(6), 0.1)
    assert fall is not None
    assert (fall.best, fall.last_good, fall.first_bad) == (4, 0, None)
    assert find_fall([replace(one, top1=None) for one in points], range(6), 0.01) is None


def smallest_margin(margins: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """The smallest margin from which on the two steps are right as often as the second alone; who is right is bool[N]."""
    found = 2.0
    for margin in sorted({0.0, *margins.tolist(), 2.0}, reverse=True):
        if np.count_nonzero(np.where(margins < margin, high, low)) < np.count_nonzero(high):
            break
        found = margin
    return found


def test_two_steps_are_tried_on_images_that_their_margin_was_not_calibrated_on(
    made: tuple[str, dict[str, Any], list[str]], mnist_image_bundle: Path, mnist_images: dict[str, np.ndarray]
) -> None:
    report = made[1]
    images, labels = mnist_images["images"][ASKED], mnist_images["labels"][ASKED]
    points = {one["profile"]: one for one in report["points"] if one["precision"] == "fp32"}
    best = max(points.values(), key=lambda one: (one["top1"], -one["flops_per_image"]))
    found = [one for one in report["cascades"] if one["precision"] == "fp32"]
    assert found and {one["then"] for one in found} == {best["profile"]}
    even = np.arange(128) // 32 % 2 == 0
    with Engine.load(mnist_image_bundle) as engine:
        high = engine(images, best["profile"]).argmax(1) == labels
        for one in found:
            logits = engine(images, one["profile"]).astype(np.float64)
            shares = np.exp(logits - logits.max(1, keepdims=True))
            ranked = np.sort(shares / shares.sum(1, keepdims=True), axis=1)
            margins, low = ranked[:, -1] - ranked[:, -2], logits.argmax(1) == labels
            right, sent = 0, 0
            for known in (even, ~even):
                sure = margins[~known] < smallest_margin(margins[known], low[known], high[known]) - 1e-9
                right += np.count_nonzero(np.where(sure, high[~known], low[~known]))
                sent += np.count_nonzero(sure)
            assert (one["top1"], one["escalated"]) == (right / 128, sent / 128)
            assert one["margin"] == pytest.approx(smallest_margin(margins, low, high), abs=1e-9)
            flops = points[one["profile"]]["flops_per_image"] + sent / 128 * best["flops_per_image"]
            assert one["flops_per_image"] == round(flops) and one["images_per_second"] > 0


def test_two_steps_are_a_curve_over_time_and_compute_and_in_the_front(made: tuple[str, dict[str, Any], list[str]]) -> None:
    page, report, _ = made
    everything = [*report["points"], *report["cascades"]]
    for one in everything:
        faster = [other for other in everything if other["images_per_second"] >= one["images_per_second"]]
        better = [
            other
            for other in faster
            if other["top1"] >= one["top1"]
            and (other["top1"], other["images_per_second"]) != (one["top1"], one["images_per_second"])
        ]
        assert one["pareto"] == (not better)
    charts = {name: page[page.index(f'id="{name}"') :].partition("</figure>")[0] for name in ("over-time", "over-compute")}
    assert charts["over-time"].count('class="ring"') == sum(one["pareto"] for one in everything)
    assert charts["over-compute"].count('class="ring"') == 0
    for one in report["cascades"]:
        name = f"{one['bundle']} {one['profile']}, then {one['then']}"
        others = [other for other in report["cascades"] if other["bundle"] == one["bundle"] and other["top1"] >= one["top1"]]
        for chart, cost in (
            ("over-time", lambda other: 1000 / other["images_per_second"]),
            ("over-compute", lambda other: other["flops_per_image"] / 1e6),
        ):
            drawn = cost(one) == min(map(cost, others))
            assert (f"<title>{name}: {one['top1']:.2%}</title>" in charts[chart]) == drawn
            row = f'<th scope="row">{name}</th><td>{cost(one):.4g}</td><td>{one["top1"]:.2%}</td>'
            assert (row in charts[chart]) == drawn
        margin = f"{one['margin']:.4f}" if one["margin"] <= 1 else "all"
        share = f"{one['escalated'] * 100:.2f}\u00a0%"
        row = f'{one["profile"]}</th><td class="text">{one["then"]}</td><td>{margin}</td><td>{share}'
        assert row in page
    assert page.count(", two steps</li>") == len({one["bundle"] for one in report["cascades"]}) == 2


def test_the_sentence_about_two_steps_is_of_the_fastest_that_are_accurate_enough(
    made: tuple[str, dict[str, Any], list[str]],
) -> None:
    page, report, _ = made
    own = [one for one in report["points"] if one["bundle"] == report["bundles"][0]["name"]]
    least = max(one["top1"] for one in own) - 0.01 - 1e-9
    fitting = [one for one in report["cascades"] if one["bundle"] == own[0]["bundle"] and one["top1"] >= least]
    fastest = max(fitting, key=lambda one: one["images_per_second"])
    alone = next(one for one in own if one["profile"] == fastest["then"])
    text = "".join(Elements(page).texts)
    said = text[text.index("The fastest two steps that lose at most 1\u00a0point") :].partition("\n")[0]
    assert f"all images at {fastest['profile']}," in said and f"again at {alone['profile']}." in said
    assert f"{fastest['images_per_second'] / alone['images_per_second']:.2f} times its speed" in said
    assert f"{fastest['escalated'] * 100:.1f}\u00a0%" in said and f"right on {fastest['top1'] * 100:.1f}\u00a0%" in said


def test_a_margin_needs_two_batches(mnist_image_bundle: Path, images: Path, tmp_path: Path) -> None:
    words = [mnist_image_bundle, "--images", images, "--sweep", "0.1", "2", "--curves", "bpr", "--batch-size", 128]
    words += [*QUICK, "-q", "-o", tmp_path / "r.html", "--json", tmp_path / "r.json"]
    assert cli.main([*map(str, words)]) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["cascades"] == [] and any("Two steps are left out" in note for note in report["notes"])


def test_what_whole_places_come_to_is_said_where_it_is_far_from_what_was_asked_for(
    mnist_checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "fours.vmoe"
    export_bundle(mnist_checkpoint, bundle, capacity=[0.3], k=[1], group="image", capacity_multiple_of=4, validate=False)
    words = [bundle, "--images", images, "--sweep", "0.1", "0.2", "0.64", "1", "--batch-size", 32, *QUICK]
    assert cli.main([*map(str, words), "-o", str(tmp_path / "r.html"), "--json", str(tmp_path / "r.json")]) == 0
    report, page = json.loads((tmp_path / "r.json").read_text()), (tmp_path / "r.html").read_text(encoding="utf-8")
    # 4 and 8 places for each of 8 experts, in groups of 50 tokens; 0.2 and 0.64 have those of 0.1.
    real = {point["capacity_ratio"]: ratio for point, ratio in zip(report["points"], report["effective"], strict=True)}
    assert real == {0.1: 4 * 8 / 50, 1: 8 * 8 / 50}
    shown = [(setting["places"], setting["real"]) for curve in data_of(page)["curves"].values() for setting in curve]
    assert shown == [(4, "0.64"), (8, "1.28")] * 3
    text = " ".join("".join(Elements(page).texts).split())
    assert "at capacity ratio 1 (its places come to 1.28)." in text and "0.1 (its places come to 0.64)" in text
    assert "they may come to another ratio: those of c0.1-k1 come to 0.64." in text
    assert "Of ratios that come to the same whole places one was measured" in text
    said = capsys.readouterr().out
    assert "at capacity ratio 1 (its places come to 1.28)." in said
    chosen = report["points"][report["recommended"]]["capacity_ratio"]
    # What is before it depends on which of the two is faster here, and on nothing else.
    assert f". Its places come to a capacity ratio of {real[chosen]:g}." in " ".join(said.split())
    assert page.count("<td>0.64</td>") >= 3


def test_whole_places_that_come_to_about_what_was_asked_for_are_no_news(made: tuple[str, dict[str, Any], list[str]]) -> None:
    page, report, _ = made
    real = {point["capacity_ratio"]: ratio for point, ratio in zip(report["points"], report["effective"], strict=True)}
    assert real == {0.1: 0.16, 0.5: 0.64, 2: 2.08}
    shown = [setting["real"] for curve in data_of(page)["curves"].values() for setting in curve]
    assert shown == ["0.16", "0.64", None] * 3
    assert "at capacity ratio 2." in " ".join("".join(Elements(page).texts).split())


def test_neighbours_count_where_images_share_a_group(mnist_bundle: Path, images: Path, tmp_path: Path) -> None:
    words = [mnist_bundle, "--images", images, "--sweep", "0.2", "--curves", "bpr", *QUICK, "-q"]
    assert cli.main([*map(str, words), "-o", str(tmp_path / "r.html"), "--json", str(tmp_path / "r.json")]) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["interference"]["max_difference"] > 0 and report["cascades"] == []
    assert "Images compete for places here" in (tmp_path / "r.html").read_text(encoding="utf-8")


# The page


def test_the_page_is_one_file_that_loads_nothing(made: tuple[str, dict[str, Any], list[str]]) -> None:
    page, _, names = made
    assert names == ["r-accuracy.png", "r-experts.png", "r-patches.png", "r.html", "r.json"]
    assert len(page.encode()) < 5_000_000
    assert not re.search(r"https?://|@import|url\(", page)
    for tag, attributes in Elements(page).tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("data:", "#")), (tag, attributes)
    assert "default-src 'none'" in page


def test_every_chart_has_its_numbers_and_a_caption(made: tuple[str, dict[str, Any], list[str]]) -> None:
    page = made[0]
    charts = re.findall(r'<figure class="chart".*?</figure>', page, re.DOTALL)
    assert len(charts) >= 5
    for chart in charts:
        dots = len(re.findall(r'class="dot"', chart))
        assert dots >= 9 and chart.count('<th scope="row">') >= dots
        assert "<figcaption" in chart and 'role="img"' in chart


def test_hostile_names_are_text(mnist_image_bundle: Path, images: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "<i>&'\".vmoe"
    shutil.copytree(mnist_image_bundle, bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["class_names"] = HOSTILE
    manifest["source"]["name"] = "<script>alert(1)</script>"
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    words = [bundle, "--images", images, "--sweep", "0.5", "--curves", "bpr", "--batch-size", "32", *QUICK, "-q"]
    assert cli.main([*map(str, words), "-o", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    elements = Elements(page)
    assert not [tag for tag, _ in elements.tags if tag in ("b", "i")]
    assert [tag for tag, _ in elements.tags].count("script") == 2 and [tag for tag, _ in elements.tags].count("style") == 1
    assert all("onerror" not in attributes for _, attributes in elements.tags)
    assert page.count("</script>") == 2 and "49" not in [text.strip() for text in elements.texts if "{{" in text]
    assert any("{{ 7*7 }}" in text for text in elements.texts) and any(HOSTILE[0] in text for text in elements.texts)
    assert set(data_of(page)["labels"]) <= {*HOSTILE}


def test_without_labels_the_page_leaves_out_accuracy(
    mnist_image_bundle: Path, plain_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [mnist_image_bundle, "--images", plain_images, "--sweep", *RATIOS, "--batch-size", "32", *QUICK]
    assert cli.main([*map(str, words), "-o", str(tmp_path / "r.html"), "--json", str(tmp_path / "r.json")]) == 0
    assert "The images have no labels, so accuracy and what follows from it are left out." in capsys.readouterr().out
    page, report = (tmp_path / "r.html").read_text(encoding="utf-8"), json.loads((tmp_path / "r.json").read_text())
    assert (report["recommended"], report["fall"], report["class_map"], report["cascades"]) == (None, None, None, [])
    assert "The images have no labels" in page and "Recommended" not in page and "Same answers over capacity" in page
    assert report["same"][report["curves"][0]["points"][-1]] == 1.0


@pytest.mark.parametrize("name", ["v3-plain", "v3-int8", "v3-ensemble", "v3-choice"])
def test_bundles_of_every_kind_and_format_have_a_page(name: str, tmp_path: Path) -> None:
    target = tmp_path / "r.html"
    with Engine.load(BUNDLES / name) as engine:
        spec = engine.manifest.input
    pixels = np.random.default_rng(0).integers(0, 256, (8, spec.height, spec.width, spec.channels), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=pixels)
    words = [BUNDLES / name, "--images", tmp_path / "images.npz", "--sweep", "0.3", "1", *QUICK, "-q"]
    assert cli.main([*map(str, words), "-o", str(target)]) == 0
    data = data_of(target.read_text(encoding="utf-8"))
    assert len(data["ratios"]) == 2 and all(setting["patches"] for curve in data["curves"].values() for setting in curve)


def test_a_model_without_capacity_is_a_line_across(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 12, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=pixels, labels=np.arange(8) % 7)
    words = [
        BUNDLES / "v3-fp32",
        "--compare",
        BUNDLES / "v3-soft",
        "--images",
        tmp_path / "images.npz",
        "--sweep",
        "0.3",
        "1",
    ]
    assert (
        cli.main([*map(str, words), *QUICK, "-q", "-o", str(tmp_path / "r.html"), "--json", str(tmp_path / "r.json")]) == 0
    )
    report, page = json.loads((tmp_path / "r.json").read_text()), (tmp_path / "r.html").read_text(encoding="utf-8")
    (place,) = report["others"]
    assert report["points"][place]["bundle"] == "v3-soft" and report["points"][place]["kept_pairs"] is None
    assert report["recommended"] != place and report["agreements"] == []
    top1 = report["points"][place]["top1"]
    assert page.count(f"<title>v3-soft, no capacity: {top1:.2%}</title>") == 3  # over capacity, time and compute
    assert "dash3" in page
    assert page.count(f'<th scope="row">v3-soft, no capacity</th><td>-</td><td>{top1:.2%}</td>') == 1
    names = [name.strip() for name in re.findall(r"</svg>\s+([^<]*)</li>", page)]
    assert names == [
        "v3-fp32, Batch Priority Routing",
        "v3-fp32, vanilla order",
        "v3-fp32, pool of places",
        "v3-soft, no capacity",
    ]
    # One precision of the model alone: nobody asks in which bundle the recommended setting is.
    assert f"<code>{report['points'][report['recommended']]['profile']}</code></h2>" in page


def test_pictures_name_classes_whole_and_order_many_by_expert() -> None:
    few = large_report(classes=20, experts=8, layers=3, samples=2)
    assert few.class_map is not None
    long = ["a class of 32 letters, 1234567890", "costs $5 or $6", "W" * 60, *few.class_map.classes[3:]]
    figure = pictures._experts(replace(few, class_map=replace(few.class_map, classes=tuple(long))))
    assert figure is not None
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names[:4] == [long[0], r"costs \$5 or \$6", "W" * 37 + "...", long[3]]
    many = large_report(classes=90, experts=8, layers=3, samples=2)
    figure = pictures._experts(many)
    assert figure is not None and many.class_map is not None
    assert figure.axes[0].get_ylabel() == "90 classes, ordered by their heaviest expert"
    for axes, weight in zip(figure.axes, many.class_map.weight, strict=True):
        drawn = np.asarray(axes.images[0].get_array())
        assert (np.diff(drawn.argmax(axis=1)) >= 0).all() and sorted(drawn.tolist()) == sorted(map(list, weight))


@pytest.mark.parametrize("ratios", [1, 2, 6])
def test_the_title_of_patches_fits_and_says_what_places_come_to(ratios: int) -> None:
    report = large_report(classes=20, experts=8, layers=3, ratios=ratios, samples=2)
    figure = pictures._patches(replace(report, effective=(1.28, *report.effective[1:])))
    assert figure is not None and figure._suptitle is not None
    figure.canvas.draw()
    box = figure._suptitle.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width
    assert figure.axes[0].get_title() == "C = 0.1\nplaces of 1.28"


# Charts and colours


def test_dots_stand_in_the_axes_in_the_order_of_their_values() -> None:
    dots = tuple(Dot(x, y, step, f"s{step}") for step, (x, y) in enumerate([(0.1, 0.91), (0.3, 0.96), (2.0, 0.97)]))
    chart = Chart("c", "t", "", Axis("C", logarithmic=True), Axis("a", percent=True), (Line("l", "s", 0, dots),), moves=True)
    drawn = drawing(chart)
    assert drawn is not None
    left, right, top, bottom = drawn.box
    places = [(x, y) for _, x, y in drawn.dots[0]]
    assert all(left <= x <= right and top <= y <= bottom for x, y in places)
    assert sorted(x for x, _ in places) == [x for x, _ in places] and places[0][1] > places[1][1] > places[2][1]
    assert drawn.guides == tuple(x for x, _ in places)
    # Equal factors are equally long.
    assert (places[1][0] - places[0][0]) / (places[2][0] - places[0][0]) == pytest.approx(np.log(3) / np.log(20), abs=0.01)
    assert drawing(replace(chart, lines=())) is None


@pytest.mark.parametrize("values", [(0.5, 0.5), (0.0, 0.0), (1.0, 1.0), (1e9, 3e9), (1e-6, 2e-6), (0.9999, 1.0)])
def test_an_axis_has_a_few_round_numbers(values: tuple[float, float]) -> None:
    line = Line("l", "s", 0, tuple(Dot(1.0 + step, value, step, "s") for step, value in enumerate(values)))
    drawn = drawing(Chart("c", "t", "", Axis("x"), Axis("y"), (line,)))
    assert drawn is not None
    texts = [text for _, text in drawn.y_ticks]
    assert 2 <= len(texts) <= 8 and len(set(texts)) == len(texts)


def test_ink_can_be_read_on_every_heat() -> None:
    for share in np.linspace(0, 1, 101):
        colour = heat_colour(float(share))
        assert contrast(colour, text_on(colour)) >= 4.5
