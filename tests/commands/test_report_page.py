"""Tests for the report in a browser: on a phone, on a large screen, and with the keyboard.

The report must send no requests to other hosts, cause no errors and have no accessibility faults.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, WIDTHS, open_browser, problems, show
from check_report_page import AXE, look, state
from command_runs import QUICK
from playwright.sync_api import Browser, Page
from test_inspect_pictures import assert_outlined
from test_report import HOSTILE, data_of
from test_sweep import capacities

from vmoe_export import export_bundle
from vmoe_tools.program import main

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, mnist_checkpoint: Path, mnist_bundle: Path, mnist_data: Path) -> Path:
    """Make a report with all curves, another model, and names that look like HTML."""
    folder = tmp_path_factory.mktemp("page")
    names = [*HOSTILE[:5], "a class with a name that is long", "W" * 60, "\u05d0 7", *"89"]
    bundle = folder / "a bundle with a long name, <b>.vmoe"
    export_bundle(mnist_checkpoint, bundle, capacity=[0.3], k=[1], class_names=names, validate=False)
    with np.load(mnist_data) as data:
        np.savez(folder / "images.npz", images=data["images"][:64], labels=data["labels"][:64])
    words = ["report", bundle, "--images", folder / "images.npz", *capacities(0.1, 0.2, 0.5, 1, 2), "--batch-size", 32]
    words += ["--bpr", "--no-bpr", "--merge", 0, "--merge", 8, "--compare", mnist_bundle]
    assert main([*map(str, words), *QUICK, "-q", "-o", str(folder / "r.html")]) == 0
    return folder / "r.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as found:
        yield found


@pytest.mark.sample(2)
@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1440, True)])
def test_nothing_is_wrong_with_it(width: int, dark: bool, page: Path, browser: Browser) -> None:
    assert look(browser, page, width, dark=dark) == []


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not there; make check-report fetches it")
def test_axe_finds_what_is_wrong(browser: Browser, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text("<!DOCTYPE html><title>x</title><img src='data:,'><p style='width:3000px'>x</p>", encoding="utf-8")
    faults = look(browser, broken, min(WIDTHS))
    assert any(fault.startswith("image-alt") for fault in faults) and any("px wide" in fault for fault in faults)


def test_the_slider_turns_by_keyboard_and_greys_what_was_dropped(page: Path, browser: Browser) -> None:
    data = data_of(page.read_text(encoding="utf-8"))
    curve = data["curves"][0]
    shown = show(browser, page.as_uri(), 1440)
    choose(shown, 0)
    shown.focus("#ratio")
    kept = []
    for key, step in (("Home", 0), ("ArrowRight", 1), ("End", 4), ("ArrowLeft", 3)):
        shown.keyboard.press(key)
        found, now = state(shown), curve[step]
        assert found["focus"] == "ratio" and found["value"] == str(step)
        assert found["ratio"] == f"{data['ratios'][step]:g}" and found["spoken"].endswith(found["ratio"])
        assert now["profile"] in found["now"] and f"{now['top1'] * 100:.1f}\u00a0% accuracy" in found["now"]
        painted = shown.evaluate("""[...document.querySelectorAll('.sample canvas')].map(canvas => {
          const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
          const grey = [...pixels].filter((_, index) => index % 4 === 3 && pixels[index] > 0).length;
          return (canvas.width * canvas.height - grey) / (8 * 8);  // pixels of a patch
        })""")
        assert found["counts"] == painted
        kept.append(sum(painted))
    assert kept[0] < kept[1] < kept[3] <= kept[2]


def test_merged_patches_are_outlined(page: Path, browser: Browser) -> None:
    data = data_of(page.read_text(encoding="utf-8"))
    shown = show(browser, page.as_uri(), 390)
    choose(shown, 2)
    _, tokens = np.frombuffer(base64.b64decode(data["curves"][2][data["step"]]["patches"]), np.uint8).reshape(2, -1, 7, 7)
    assert shown.locator(".count").first.inner_text().endswith(f"({len(np.unique(tokens[0]))}\u00a0tokens)")
    pixels = shown.evaluate("[...document.querySelector('canvas').getContext('2d').getImageData(0, 0, 56, 56).data]")
    assert_outlined(np.array(pixels) / 255, tokens[0])


def test_layer_order_and_colours_can_be_chosen(page: Path, browser: Browser) -> None:
    shown = show(browser, page.as_uri(), 390)
    before = state(shown)
    choose(shown, 1)
    vanilla = state(shown)
    assert "-vanilla" in vanilla["now"] and vanilla["now"] != before["now"]
    shown.select_option("#layer", index=4)
    assert "encoderblock_4" in (shown.locator("canvas").first.get_attribute("aria-label") or "")
    shown.click("#tint")
    # the test itself causes this warning, because it reads pixels back
    assert [each for each in problems(shown) if "readback" not in each] == []
    assert shown.evaluate("document.querySelector('.sample canvas').getContext('2d').getImageData(0, 0, 7, 7).data[3]") > 0


def test_a_name_from_right_to_left_keeps_its_share_behind_it(page: Path, browser: Browser) -> None:
    shown = show(browser, page.as_uri(), 1440)
    name, share = shown.evaluate("""[...document.querySelectorAll('.answered')].filter(text =>
      text.textContent.includes('\u05d0')).map(({ childNodes: nodes }) => [nodes[1], nodes[2]].map(part => {
        const range = document.createRange();
        range.selectNodeContents(part);
        return range.getClientRects()[0].left;
      }))[0]""")
    assert name < share


def test_paper_cuts_no_chart(page: Path, browser: Browser) -> None:
    shown = show(browser, page.as_uri(), 1440)
    shown.emulate_media(media="print")
    script = "[...document.querySelectorAll('.chart')].map(part => getComputedStyle(part).breakInside)"
    assert set(shown.evaluate(script)) == {"avoid"}


def choose(page: Page, curve: int) -> None:
    page.evaluate(f"document.querySelector('input[name=curve][value=\"{curve}\"]').click()")
