"""Tests for `vmoe page`, which writes a folder that runs a bundle in a browser.

The page's results must equal the engine's. The page must not send requests to other hosts.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import open_browser, problems, show
from bundle_changes import BUNDLES
from check_report_page import faults_of
from command_runs import Vmoe
from page_site import answers_of, drop, served, until_answered, web_folder, write_page
from picture_file import picture_file
from PIL import Image
from playwright.sync_api import Browser, Page
from test_report import HOSTILE

from vmoe_export import export_bundle
from vmoe_measure.flops import sparse_flops
from vmoe_runtime import Engine
from vmoe_runtime.bundle.manifest import InputSpec
from vmoe_runtime.images import to_batch
from vmoe_runtime.preprocessing import read_steps
from vmoe_runtime.resampling import GREY_WEIGHTS
from vmoe_runtime.settings import Setting
from vmoe_tools.bench.quality import model_shape
from vmoe_tools.inspect.patches import layer_patches
from vmoe_tools.page.contents import RATIOS

pytestmark = pytest.mark.long

SETTINGS_OF_DIGITS = ("c1.05-k1", "c0.1-k1", "c0.3-k2-vanilla", "c0.2-k1-pool-m4", "c0.3-k1-pool-r8", "c1.05-k2-r10")
GOLDEN = Path(__file__).parents[1] / "data" / "golden"
EXPORTED: dict[str, tuple[str, dict[str, Any]]] = {"dense": ("g4", {}), "ensemble": ("g5", {"group": "image"})}
NO_GPU = {"No available adapters."}  # the only message from the browser that is allowed
SEVEN = [(0.3, 0.28), (0.5, 0.27), (0.7, 0.27), (0.6, 0.5), (0.5, 0.65), (0.45, 0.78)]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, mnist_checkpoint: Path) -> Path:
    """Write a page for digits, from a bundle with names that look like HTML."""
    folder = tmp_path_factory.mktemp("page")
    names = [*HOSTILE[:5], *"56", "7: a class with a long name", *"89"]
    bundle = folder / "digits, <b>.vmoe"
    export_bundle(mnist_checkpoint, bundle, capacity=[1.05, 0.3], k=[1], class_names=names, validate=False)
    return write_page(bundle, folder / "site")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    web_folder()
    with open_browser() as found:
        yield found


@pytest.fixture
def opened(page: Path, browser: Browser) -> Iterator[Page]:
    """Open the page in a window 1440 px wide, and wait until it shows a result for each image."""
    with served(page) as address:
        shown = show(browser, address, 1440)
        until_answered(shown)
        yield shown


def state(page: Page) -> dict[str, Any]:
    """Return the texts that the page shows for its first setting."""
    found: dict[str, Any] = page.evaluate("""(side => ({
      name: side.querySelector('.setting').textContent, classes: side.querySelector('.classes').textContent,
      dropped: [...side.querySelectorAll('figcaption')].map(text => parseInt(text.textContent.split(': ')[1])),
      problem: side.querySelector('.problem').textContent,
      labels: [...side.querySelectorAll('canvas')].map(canvas => canvas.getAttribute('aria-label')),
      ...Object.fromEntries([...side.querySelectorAll('dl div')].map(({ children: [name, value] }) =>
        [name.textContent, value.textContent])),
    }))(document.querySelector('.side'))""")
    return found


def test_a_seven_is_drawn_and_patches_go_when_the_capacity_falls(opened: Page) -> None:
    opened.click("#clear")
    until_answered(opened)
    empty = state(opened)
    box = opened.locator("#pad").bounding_box() or {}
    first, *others = [(box["x"] + x * box["width"], box["y"] + y * box["width"]) for x, y in SEVEN]
    opened.mouse.move(*first)
    opened.mouse.down()
    for point in others:
        opened.mouse.move(*point)
    opened.mouse.up()
    until_answered(opened)
    high = state(opened)
    assert high["classes"].startswith("7: a class") and not empty["classes"].startswith("7: a class")
    opened.focus(".side [data-setting=capacity]")
    for _ in range(20):
        opened.keyboard.press("ArrowLeft")
        until_answered(opened)
        if (low := state(opened))["name"] == "c0.1-k1":
            break
    assert high["name"] == "c1.05-k1" and low["name"] == "c0.1-k1" and low["slots per expert"] == "1"
    assert all(after > before for before, after in zip(high["dropped"], low["dropped"], strict=True))
    assert low["labels"][0].startswith(f"Block 0: {low['dropped'][0]} of 49 dropped, 1 by expert")
    assert float(low["MFLOP"]) < float(high["MFLOP"])
    opened.locator(".side [data-setting=merge]").first.fill("8")
    until_answered(opened)
    merged = state(opened)
    assert merged["name"] == "c0.1-k1-r8" and "49 merged into" in merged["labels"][0]
    assert {*problems(opened)} <= NO_GPU


@pytest.mark.parametrize("count", [30, pytest.param(200, marks=pytest.mark.slow)])
def test_digits_at_6_settings_are_answered_and_routed_as_by_the_engine(
    count: int, mnist_image_bundle: Path, mnist_images: dict[str, np.ndarray], opened: Page
) -> None:
    with Engine.load(mnist_image_bundle) as engine:
        for setting in SETTINGS_OF_DIGITS:
            compare(opened, engine, mnist_images["images"][:count, ..., None], setting, most_near_ties=count // 100)


def compare(page: Page, engine: Engine, images: np.ndarray, setting: str | None, most_near_ties: int = 0) -> None:
    """Compare the page's results with the engine's.

    Logits must agree within 1e-4. In each layer, patches must have the same experts and belong to the same merged tokens. At
    most `most_near_ties` images may be routed differently, because some of their gates are almost equal.
    """
    profile = engine.setting(setting)
    logits, routing = engine.logits_and_routing(images, profile)
    experts = [layer_patches(layer).expert.reshape(len(images), -1) for layer in routing.values()]
    different = 0
    for index, answer in enumerate(answers_of(page, images, profile)):
        alike = True
        for found, layer, expert in zip(answer["layers"], routing.values(), experts, strict=True):
            alike &= np.array_equal(found["expert"][-expert.shape[1] :], expert[index])
            alike &= layer.token is None or np.array_equal(found["token"], layer.token[index])
        different += not alike
        if alike:
            np.testing.assert_allclose(answer["logits"], logits[index], rtol=0, atol=1e-4)
    assert different <= most_near_ties


@pytest.mark.sample(3)
@pytest.mark.parametrize("kind", ["choice", "dense", "ensemble", "fp32", "int8", "soft"])
def test_every_kind_is_answered_as_by_the_engine(kind: str, tmp_path: Path, browser: Browser) -> None:
    bundle = BUNDLES / f"v3-{kind}"
    if kind in EXPORTED:
        checkpoint, options = EXPORTED[kind]
        bundle = export_bundle(GOLDEN / checkpoint, tmp_path / "m.vmoe", validate=False, **options).path
    with Engine.load(bundle, backend="onnxruntime") as engine, served(write_page(bundle, tmp_path / "site")) as address:
        shown = show(browser, address, 1440)
        until_answered(shown, "WebAssembly on")
        images = np.random.default_rng(7).integers(0, 256, (8, *engine.manifest.input.size), np.uint8)
        for name in list(engine.profiles) or ["r2" if kind == "dense" else None]:
            compare(shown, engine, images, name)
        began = time.monotonic()
        drop(shown, picture_file(images[0]))
        told = re.search("took ([0-9.]+) s", until_answered(shown))
        # the time that the page reports must not begin before the drop
        assert told and float(told[1]) <= time.monotonic() - began + 0.01
        assert state(shown)["problem"] == ""
        assert state(shown)["classes"].removeprefix("class ").startswith(str(engine.classify(images[:1], top=1)[0][0][0]))
        assert shown.locator(".drops").is_visible() == (kind not in ("dense", "soft"))
        drop(shown, b"no picture")
        shown.get_by_text("The browser can't read this picture.").wait_for()
        shown.evaluate("document.dispatchEvent(new DragEvent('drop', {dataTransfer: new DataTransfer()}))")  # drops a text
        assert shown.locator("#problem").inner_text() == "The browser can't read this picture."
        assert {*problems(shown)} <= NO_GPU


@pytest.mark.sample(2)
@pytest.mark.parametrize("precision", ["int8", "int4", "bf16", "bf16-experts"])
def test_every_precision_is_answered(
    precision: str, mnist_checkpoint: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path, browser: Page
) -> None:
    """Compare the page with the engine on standard ops, in each precision.

    The page and the engine add numbers in different orders, so a value may round to a neighbouring int8 value.
    """
    options: dict[str, Any] = {"precision": precision, "input": "uint8"}
    bundle = export_bundle(mnist_checkpoint, tmp_path / "m.vmoe", capacity=[0.3], k=[1], validate=False, **options).path
    with Engine.load(bundle) as engine, served(write_page(bundle, tmp_path / "site")) as address:
        shown = show(browser, address, 1440)
        until_answered(shown)
        images = mnist_images["images"][:40, ..., None]
        found = np.array([answer["logits"] for answer in answers_of(shown, images, engine.profile)])
        assert np.mean(found.argmax(axis=1) == engine(images).argmax(axis=1)) >= 0.95
        assert np.median(np.abs(found - engine(images))) < 0.1


def test_slots_names_and_flops_are_those_of_the_engine(mnist_image_bundle: Path, opened: Page) -> None:
    rng = np.random.default_rng(3)
    with Engine.load(mnist_image_bundle) as engine:
        manifest = engine.manifest
    shape = model_shape(manifest)
    assert shape is not None
    cases = []
    for _ in range(300):
        setting = {"capacity": float(rng.choice(RATIOS)), "k": int(rng.integers(1, 9)), "bpr": bool(rng.integers(2))}
        setting |= {"pool": bool(rng.integers(2)), "max_experts": int(rng.integers(1, 9)), "merge": int(rng.integers(0, 25))}
        profile = manifest.rules.profile_of(Setting.of(setting))
        rows = rng.integers(0, 100, len(profile.slots)).tolist()
        cases.append((setting, rows, [profile.name, list(profile.slots), sparse_flops(shape, rows, setting["merge"])]))
    script = """async cases => {
      const [{ nameOf, slotsOf }, { flopsOf }, facts] = await Promise.all([
        import('./settings.js'), import('./side.js'), fetch('page.json').then(found => found.json())]);
      return cases.map(([setting, rows]) => [
        nameOf(facts, setting), slotsOf(facts, setting), flopsOf(facts, rows, setting.merge)]);
    }"""
    found = opened.evaluate(script, [case[:2] for case in cases])
    assert found == [expected for _, _, expected in cases]


def test_every_control_has_a_name(opened: Page) -> None:
    side = opened.get_by_role("region", name="Setting A")
    sliders = side.get_by_role("slider", name=re.compile("[a-z] [0-9.]+$")).all()
    assert [each.get_attribute("data-setting") for each in sliders] == ["capacity", "k", "max_experts", "merge"]
    assert side.get_by_role("checkbox", name=re.compile("[a-z]")).count() == 2


def test_a_long_name_is_cut_between_characters(opened: Page) -> None:
    script = "name => import('./side.js').then(({ nameOfClass }) => nameOfClass({ class_names: [name] }, 0))"
    assert opened.evaluate(script, "\U0001f408" * 61) == "\U0001f408" * 60 + "..."


def test_a_picture_is_prepared_by_the_steps(opened: Page) -> None:
    """Check that the page and the engine prepare a picture in the same way.

    In smooth areas, the two results may differ by a few grey levels. They must show the same part of the picture.
    """
    across, down = np.meshgrid(np.arange(96), np.arange(72))
    pixels = np.stack([across * 2.6, down * 3.5, (across + down) * 1.5], axis=2).astype(np.uint8)
    exif, alpha = Image.Exif(), np.full((72, 96, 1), 128, np.uint8)
    exif[0x112] = 6
    files = [picture_file(pixels, form, exif=exif) for form in ("PNG", "JPEG")]
    files.append(picture_file(np.concatenate([pixels, alpha], axis=2)))
    exact = ("central_crop(32)", "central_crop(67)|round_central_crop(32)")
    ways = ("resize_small(40)|central_crop(32)", "exif|background(9,0,200)|pillow_bicubic(32)", *exact)
    for file, steps, channels in itertools.product(files, ways, (1, 3)):
        if file is files[-1] and "background" not in steps:
            continue  # a browser's canvas discards the colours of transparent pixels
        spec = InputSpec("uint8", 32, 32, channels, read_steps(steps))
        listed = [[step.name, step.height, step.width, step.keeps_shape] for step in spec.steps.steps]
        script = """async ([file, facts, channels]) => {
          const { decode, pixelsOf, prepare } = await import('./picture.js');
          const picture = await decode(new Blob([new Uint8Array(file)]), facts);
          return [...pixelsOf(prepare(picture, facts.steps), channels, facts.grey_weights)];
        }"""
        facts = {"steps": listed, "rotates": spec.steps.rotates, "background": spec.steps.background}
        facts["grey_weights"] = GREY_WEIGHTS
        made = opened.evaluate(script, [list(file), facts, channels])
        off = np.abs(np.array(made) - to_batch(file, spec).ravel().astype(int))
        assert off.max() <= (0 if steps in exact and file is files[0] else 8), steps


def test_sizes_are_those_of_the_steps_and_what_no_canvas_holds_is_refused(opened: Page) -> None:
    script = """([width, height, name]) => import('./picture.js').then(({ prepare }) => {
      const made = prepare(new OffscreenCanvas(width, height), [[name, 41, 41, true]]);
      return [made.width, made.height];
    }).catch(({ message }) => message)"""
    assert opened.evaluate(script, [96, 72, "pillow_bicubic_small"]) == [54, 41]
    assert opened.evaluate(script, [96, 72, "resize_small"]) == [55, 41]
    assert "this browser can't draw 820000x41 pixels" in opened.evaluate(script, [20_000, 1, "resize_small"])


def test_the_latest_picture_is_shown_alone_and_a_file_can_be_chosen_twice(opened: Page) -> None:
    colour_of_pad = "[...document.getElementById('pad').getContext('2d').getImageData(5, 5, 1, 1).data]"
    opened.evaluate("""() => {
      const decode = createImageBitmap;
      let wait = 1000;  // of the first picture
      window.createImageBitmap = async (...given) => {
        await new Promise((done) => setTimeout(done, wait -= 500));
        return decode(...given);
      };
    }""")
    for alpha in (255, 0):
        drop(opened, picture_file(np.full((28, 28, 4), alpha, np.uint8)))
    opened.wait_for_timeout(1000)
    assert opened.evaluate(colour_of_pad) == [0, 0, 0, 0]
    drop(opened, picture_file(np.full((28, 28, 4), 255, np.uint8)))
    opened.wait_for_function(f"() => {colour_of_pad}[0] === 255")
    drop(opened, picture_file(np.zeros((28, 28, 4), np.uint8)))
    opened.wait_for_function(f"() => {colour_of_pad}[3] === 0")
    opened.locator("#file").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b""})
    with opened.expect_file_chooser():
        opened.click("#file")
    assert opened.locator("#file").input_value() == ""


@pytest.mark.sample(2)
@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1440, False), (1440, True)])
def test_nothing_is_wrong_with_it(width: int, dark: bool, page: Path, browser: Browser) -> None:
    with served(page) as address:
        shown = show(browser, address, width, dark=dark)
        until_answered(shown)
        requests = [request.url for request in shown.requests()]
        assert [asked for asked in requests if not asked.startswith((address, "data:", "blob:"))] == []
        assert any(asked.endswith(".wasm") for asked in requests)  # proves that requests from web workers are recorded
        weights = hashlib.sha256((page / "weights.safetensors").read_bytes()).hexdigest()
        # the URL contains the digest, so the browser can't use an earlier page's file from its cache
        assert f"{address}/weights.safetensors?{weights}" in requests
        assert faults_of(shown, width) == [] and {*problems(shown)} <= NO_GPU
        assert shown.locator("img").count() == 0


def test_it_shows_that_it_waits_until_the_first_answer_is_there(page: Path, browser: Browser) -> None:
    watch = """new MutationObserver(() => {
      const words = document.getElementById('status')?.textContent, bar = document.getElementById('progress');
      const answers = document.querySelectorAll('.side .classes li').length;
      if (bar) (window.seen ??= []).push([words, !bar.hidden, answers > 0]);
    }).observe(document, { subtree: true, childList: true, attributes: true });"""
    with served(page) as address:
        shown = browser.new_page()
        shown.add_init_script(watch)
        shown.goto(address)
        last = until_answered(shown)
        seen = shown.evaluate("window.seen")
    before = [(words, has_bar) for words, has_bar, has_answers in seen if not has_answers]
    assert all(has_bar for _, has_bar in before) and seen[-1][:2] == [last, False]
    told = dict.fromkeys(words for words, _ in before)
    assert "Starting the model ..." in told
    assert list(told)[-1].endswith("MB. Computing an answer ...")


@pytest.mark.parametrize("isolated", [True, False])
def test_it_has_threads_where_it_is_isolated(isolated: bool, page: Path, browser: Browser) -> None:
    with served(page, isolated=isolated) as address:
        shown = show(browser, address, 1440)
        threads = min(shown.evaluate("navigator.hardwareConcurrency"), 8) if isolated else 1
        assert f"WebAssembly on {threads} thread" in until_answered(shown)


def test_without_a_gpu_webgpu_falls_back_to_webassembly(opened: Page) -> None:
    used = opened.evaluate("""Promise.all([import('./session.js'), fetch('page.json').then(found => found.json())]).then(
      ([{ open }, facts]) => open(facts, 'webgpu', () => {}))""")
    assert used["device"] == "wasm" and used["bytes"] > 18e6  # size of the WebGPU build, which also runs WebAssembly


def test_the_folder_says_nothing_of_this_machine(page: Path) -> None:
    assert sorted(path.name for path in page.iterdir() if path.suffix not in (".js", ".css", ".html")) == [
        "_headers", "model.onnx", "onnxruntime-web", "page.json", "weights.safetensors",
    ]  # fmt: skip
    for path in page.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        for word in (str(page.parent), str(Path.home())):
            assert word.encode() not in content, path


def test_user_errors_are_one_sentence(
    page: Path, mnist_bundle: Path, tmp_path: Path, vmoe: Vmoe, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, new = next(page.parent.glob("*.vmoe")), tmp_path / "site"
    web = ("--onnxruntime-web", web_folder())
    for given, out, options, told in (
        (bundle, page, web, "exists; --force replaces it if vmoe page wrote it"),
        (bundle, bundle / "site", web, "is a bundle"),
        (bundle, bundle, (*web, "--force"), "was not written by vmoe page"),
        (mnist_bundle, new, web, "export it with --group image"),
        (BUNDLES / "v3-dense", new, web, "it outputs features, and the page shows classes"),
        (bundle, new, ("--onnxruntime-web", tmp_path), "ort.wasm.bundle.min.mjs can't be read (No such file or directory)"),
    ):
        assert told in vmoe.complaint(1, "page", given, "-o", out, *options)
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    told = vmoe.complaint(1, "page", bundle, "-o", new)
    assert "npm couldn't fetch onnxruntime-web (" in told and "--onnxruntime-web DIR" in told
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "npm, which fetches onnxruntime-web, is not installed" in vmoe.complaint(1, "page", bundle, "-o", new)
    assert not new.exists()
    out, _ = vmoe.run("page", bundle, "-o", page, "--force", *web)
    assert "onnxruntime-web" in out and "http.server" in out
