"""The report in a browser: on a phone and on a screen, by keyboard, without a request, an error or a fault of access."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, Page, open_browser
from check_report_page import AXE, WIDTHS, look, state
from large_reports import large_report
from test_bench import QUICK
from test_report import HOSTILE, data_of
from vmoe_tools.report.colours import heat_colour

from vmoe_export import export_bundle
from vmoe_tools.report import cli
from vmoe_tools.report.page import render_page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")

RATIOS = ("0.1", "0.2", "0.5", "1", "2")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, mnist_checkpoint: Path, mnist_data: Path) -> Path:
    """A report with all curves and names that are no HTML."""
    folder = tmp_path_factory.mktemp("page")
    names = [*HOSTILE[:5], "a class with a name that is long", "W" * 60, *"789"]
    bundle = folder / "a bundle with a long name, <b>.vmoe"
    export_bundle(mnist_checkpoint, bundle, capacity=[0.3], k=[1], class_names=names, validate=False)
    with np.load(mnist_data) as data:
        np.savez(folder / "images.npz", images=data["images"][:64], labels=data["labels"][:64])
    words = [bundle, "--images", folder / "images.npz", "--sweep", *RATIOS, "--batch-size", 32, *QUICK, "-q"]
    assert cli.main([*map(str, words), "-o", str(folder / "r.html")]) == 0
    return folder / "r.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with open_browser() as found:
        yield found


def choose(browser: Page, name: str, value: int, event: str) -> None:
    """Sets what people turn or choose."""
    element = f"document.getElementById('{name}')"
    browser.run(f"(one => {{ one.value = {value}; one.dispatchEvent(new Event('{event}')); }})({element})")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wrong_with_it(width: int, dark: bool, page: Path, browser: Page) -> None:
    assert look(browser, page, width, dark=dark) == []


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not there; make check-report fetches it")
def test_axe_finds_what_is_wrong(browser: Page, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text("<!DOCTYPE html><title>x</title><img src='data:,'><p style='width:3000px'>x</p>", encoding="utf-8")
    faults = look(browser, broken, 390)
    assert any(fault.startswith("image-alt") for fault in faults) and any("px wide" in fault for fault in faults)


def test_the_slider_turns_by_keyboard(page: Path, browser: Page) -> None:
    settings = data_of(page.read_text(encoding="utf-8"))
    curve = settings["curves"][settings["kind"]]
    browser.open(page.as_uri(), 1440, 900)
    browser.run("document.getElementById('ratio').focus()")
    kept = []
    for key, code, step in (("Home", 36, 0), ("ArrowRight", 39, 1), ("End", 35, 4), ("ArrowLeft", 37, 3)):
        browser.press(key, code)
        found, now = state(browser), curve[step]
        assert found["focus"] == "ratio" and found["value"] == str(step)
        assert found["ratio"] == f"{settings['ratios'][step]:g}" and found["spoken"].endswith(found["ratio"])
        assert now["profile"] in found["now"] and f"{now['top1'] * 100:.1f}\u00a0% right" in found["now"]
        assert found["dots"] >= 5
        kept.append(sum(found["counts"]))
    assert kept[0] < kept[1] < kept[3] <= kept[2]


def test_grey_patches_are_those_that_were_dropped(page: Path, browser: Page) -> None:
    browser.open(page.as_uri(), 1440, 900)
    choose(browser, "ratio", 0, "input")
    painted = browser.run("""[...document.querySelectorAll('.sample canvas')].map(canvas => {
      const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
      return canvas.width * canvas.height - [...pixels].filter((_, index) => index % 4 === 3 && pixels[index] > 0).length;
    })""")
    assert state(browser)["counts"] == painted and min(painted) > 0 and max(painted) < 49


def test_layer_order_and_colours_can_be_chosen(page: Path, browser: Page) -> None:
    browser.open(page.as_uri(), 390, 844)
    before = state(browser)
    browser.run("document.querySelector('input[value=vanilla]').click()")
    vanilla = state(browser)
    assert "-vanilla" in vanilla["now"] and vanilla["now"] != before["now"]
    choose(browser, "layer", 4, "change")
    assert browser.run("document.querySelector('.layer-now').textContent") == "encoderblock_4"
    browser.run("document.getElementById('tint').click()")
    seen = browser.run("document.querySelector('.sample canvas').getContext('2d').getImageData(0, 0, 7, 7).data[3]")
    assert seen > 0 and browser.problems == []


def test_gates_follow_the_slider(page: Path, browser: Page) -> None:
    settings = data_of(page.read_text(encoding="utf-8"))
    browser.open(page.as_uri(), 1440, 900)
    seen = []
    for step in (0, 4):
        choose(browser, "ratio", step, "input")
        layers = settings["curves"][settings["kind"]][step]["layers"]
        shares = np.array([layer["gates"] for layer in layers], float)
        shares /= shares.sum(axis=(1, 2), keepdims=True)
        titles = browser.run("""[...document.querySelectorAll('#gates svg')].map(chart =>
          [...chart.querySelectorAll('title')].map(title => title.textContent.match(/[0-9.]+(?=\u00a0%)/g).map(Number)))""")
        np.testing.assert_allclose(np.array(titles), 100 * shares.transpose(0, 2, 1), atol=0.0051)
        heights = browser.run("""[...document.querySelectorAll('#gates svg')].map(chart =>
          [...chart.querySelectorAll('g')].map(bar =>
            [...bar.querySelectorAll('rect')].reduce((sum, part) => sum + Number(part.getAttribute('height')), 0)))""")
        of_all = shares.sum(axis=1)
        np.testing.assert_allclose(np.array(heights) / np.max(heights), of_all / of_all.max(), atol=1e-6)
        rows = browser.run("""[...document.querySelectorAll('#gate-rows tr')].map(row =>
          [...row.querySelectorAll('td')].map(cell => Number(cell.textContent.replaceAll(',', ''))))""")
        assert rows == np.array(layers[0]["gates"]).T.tolist()
        seen.append(titles)
    assert seen[0] != seen[1]


def test_classes_follow_the_slider(page: Path, browser: Page) -> None:
    settings = data_of(page.read_text(encoding="utf-8"))
    found, experts = settings["classMap"], settings["experts"]
    browser.open(page.as_uri(), 1440, 900)
    seen = []
    for step, layer in ((0, 4), (4, 4), (4, 1)):
        choose(browser, "ratio", step, "input")
        choose(browser, "map-layer", layer, "change")
        assert browser.run("[...document.querySelectorAll('select.layer')].map(one => one.value)") == [str(layer)] * 2
        assert browser.run("document.querySelector('.layer-now').textContent") == f"encoderblock_{layer}"
        raw = np.frombuffer(base64.b64decode(settings["curves"][settings["kind"]][step]["classes"]), "<u2")
        weights = raw.reshape(5, len(found["classes"]), experts)[layer] / 10_000
        rows = browser.run("""[...document.querySelectorAll('#map-rows tr')].map(row =>
          [...row.children].map(cell => cell.textContent))""")
        assert [row[0] for row in rows] == found["classes"]
        np.testing.assert_allclose(np.array([row[1:] for row in rows], float), weights * 100, atol=0.501)
        favourites = browser.run("[...document.querySelectorAll('#favourites td')].map(cell => cell.textContent)")
        heaviest = [found["classes"][column.argmax()] if column.any() else "none" for column in weights.T]
        assert all(said.startswith(name) for said, name in zip(favourites, heaviest, strict=True))
        seen.append(rows)
    assert seen[0] != seen[1] and seen[1] != seen[2]
    assert browser.problems == []


def test_a_map_of_many_classes_is_a_picture_sorted_by_expert(browser: Page, tmp_path: Path) -> None:
    html = render_page(large_report(classes=300, experts=16, layers=3, samples=2))
    (tmp_path / "large.html").write_text(html, encoding="utf-8")
    assert look(browser, tmp_path / "large.html", 390) == []
    settings = data_of(html)
    choose(browser, "ratio", 5, "input")
    pixels = browser.run("""(picture => [...picture.getContext('2d').getImageData(0, 0, picture.width, picture.height).data])
      (document.getElementById('map-picture'))""")
    painted = np.array(pixels).reshape(300, 16, 4)[..., :3]
    curve = [
        np.frombuffer(base64.b64decode(one["classes"]), "<u2").reshape(3, 300, 16)[0] for one in settings["curves"]["bpr"]
    ]
    order = np.lexsort((-curve[5].max(axis=1), curve[5].argmax(axis=1)))
    heats = curve[5][order] / np.max(curve)
    expected = [[list(bytes.fromhex(heat_colour(float(heat))[1:])) for heat in row] for row in heats]
    # There are a hundred colours between the lightest and the deepest.
    assert np.abs(painted - np.array(expected)).max() <= 2


@pytest.fixture(scope="module")
def many_classes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], np.ndarray]:
    """A page of 300 classes and 32 experts, what its script reads, and the weights of each curve, step and layer."""
    report = large_report(classes=300, experts=32, layers=3, ratios=3, curves=2, samples=2)
    path = tmp_path_factory.mktemp("many") / "many.html"
    path.write_text(render_page(replace(report, effective=(1.28, *report.effective[1:]))), encoding="utf-8")
    settings = data_of(path.read_text(encoding="utf-8"))
    texts = [[one["classes"] for one in settings["curves"][kind]] for kind in ("bpr", "vanilla")]
    weights = [[np.frombuffer(base64.b64decode(text), "<u2") for text in curve] for curve in texts]
    return path, settings, np.reshape(weights, (2, 3, 3, 300, 32)) / 10_000


def said(name: str, images: int, weights: np.ndarray) -> str:
    """What is said of a class: its five heaviest experts."""
    experts = ", ".join(f"expert {expert} {weights[expert]:.3f}" for expert in np.argsort(-weights, kind="stable")[:5])
    return f"{name}, {images} image{'' if images == 1 else 's'}: {experts}"


def says(browser: Page) -> str:
    text: str = browser.run("document.getElementById('map-says').textContent")
    return text.replace("\u00a0", " ")


def test_a_class_of_many_is_read_by_keyboard(many_classes: tuple[Path, dict[str, Any], np.ndarray], browser: Page) -> None:
    path, settings, weights = many_classes
    names, images = settings["classMap"]["classes"], settings["classMap"]["images"]
    browser.open(path.as_uri(), 1440, 900)
    choices = browser.run("[...document.getElementById('map-class').options].map(one => one.textContent)")
    assert choices == [f"a class with a name, {index}" for index in range(300)]
    browser.run("document.getElementById('map-class').focus()")
    for key, code, index in (("ArrowDown", 40, 1), ("End", 35, 299)):
        browser.press(key, code)
        place = names.index(f"a class with a name, {index}")
        assert says(browser) == said(names[place], images[place], weights[0, 0, 0, place])
        assert browser.run("document.querySelector('#map-mark span').textContent") == names[place]
    # It follows the slider and the layer.
    choose(browser, "ratio", 2, "input")
    choose(browser, "layer", 2, "change")
    assert says(browser) == said(names[place], images[place], weights[0, 2, 2, place])
    assert browser.run("document.getElementById('map-says').getAttribute('role')") == "status"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("event", ["mouseMoved", "mousePressed"])
def test_a_class_of_many_is_read_by_pointing_at_it(
    width: int, event: str, many_classes: tuple[Path, dict[str, Any], np.ndarray], browser: Page
) -> None:
    path, settings, weights = many_classes
    browser.open(path.as_uri(), width, WIDTHS[width])
    browser.run("document.getElementById('map-picture').scrollIntoView({block: 'center'})")
    left, top, wide, tall = browser.run(
        "(box => [box.left, box.top, box.width, box.height])(document.getElementById('map-picture').getBoundingClientRect())"
    )
    order = np.lexsort((-weights[0, 0, 0].max(axis=1), weights[0, 0, 0].argmax(axis=1)))
    for row in (120, 170):
        place = int(order[row])
        where = {"x": left + wide / 2, "y": top + (row + 0.5) / 300 * tall}
        browser.call("Input.dispatchMouseEvent", type=event, button="none" if event == "mouseMoved" else "left", **where)
        name, images = settings["classMap"]["classes"][place], settings["classMap"]["images"][place]
        assert says(browser) == said(name, images, weights[0, 0, 0, place])
        assert browser.run("document.getElementById('map-class').value") == str(place)
        mark = browser.run("(box => [box.top, box.bottom])(document.getElementById('map-mark').getBoundingClientRect())")
        assert mark[0] - 1 <= where["y"] <= mark[1] + 1


@pytest.mark.parametrize("width", WIDTHS)
def test_experts_of_many_classes_have_numbers(
    width: int, many_classes: tuple[Path, dict[str, Any], np.ndarray], browser: Page
) -> None:
    assert look(browser, many_classes[0], width) == []
    axis = browser.run("""(picture => [...document.querySelectorAll('.map-axis span')].map(one => {
      const box = one.getBoundingClientRect();
      const middle = (box.left + box.right) / 2;
      return [Number(one.textContent), (middle - picture.left) / picture.width * 32 - 0.5, box.left, box.right];
    }))(document.getElementById('map-picture').getBoundingClientRect())""")
    assert [number for number, *_ in axis] == list(range(0, 32, 2))
    np.testing.assert_allclose([place for _, place, *_ in axis], range(0, 32, 2), atol=0.1)
    assert all(right < left for (*_, right), (*_, left, _) in itertools.pairwise(axis))
    caption = browser.run("document.getElementById('map-title').parentElement.querySelector('figcaption').textContent")
    assert "A row for each class, ordered by heaviest expert" in caption and "in hundredths" not in caption


def test_colours_of_a_class_map_are_of_the_curve_alone(
    many_classes: tuple[Path, dict[str, Any], np.ndarray], browser: Page
) -> None:
    path, settings, _ = many_classes
    faint = base64.b64encode(np.full(3 * 300 * 32, 100, "<u2").tobytes()).decode()
    html = path.read_text(encoding="utf-8")
    for one in settings["curves"]["vanilla"]:
        html = html.replace(one["classes"], faint)
    path.with_name("faint.html").write_text(html, encoding="utf-8")
    browser.open(path.with_name("faint.html").as_uri(), 1440, 900)
    browser.run("document.querySelector('input[value=vanilla]').click()")
    assert browser.run("document.getElementById('map-largest').textContent") == "0.01"
    assert browser.run("document.getElementById('map-kind').textContent") == "vanilla"
    pixel = browser.run("[...document.getElementById('map-picture').getContext('2d').getImageData(5, 5, 1, 1).data]")
    assert bytes(pixel[:3]).hex() == heat_colour(1.0)[1:]


@pytest.mark.parametrize("experts", [8, 32])
def test_no_expert_is_scrolled_away_on_a_screen(experts: int, browser: Page, tmp_path: Path) -> None:
    html = render_page(large_report(classes=60, experts=experts, layers=2, ratios=2, samples=2))
    (tmp_path / "experts.html").write_text(html, encoding="utf-8")
    browser.open((tmp_path / "experts.html").as_uri(), 1440, 900)
    visible, whole = browser.run(
        "(box => [box.clientHeight, box.scrollHeight])(document.getElementById('loads').closest('.scroll'))"
    )
    assert whole <= visible + 1
    rows, bottom = browser.run("""(figure => [document.getElementById('loads').getBoundingClientRect().bottom,
      figure.querySelector('figcaption').getBoundingClientRect().top])(document.getElementById('loads').closest('figure'))""")
    assert 0 <= bottom - rows < 30


def test_the_slider_says_what_places_come_to(many_classes: tuple[Path, dict[str, Any], np.ndarray], browser: Page) -> None:
    browser.open(many_classes[0].as_uri(), 390, 844)
    assert "c0: 7 places per expert, which come to a ratio of 1.28. " in state(browser)["now"]
