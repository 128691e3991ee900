"""Check that the engine accepts several forms of images, and refuses all other inputs with a message."""

from __future__ import annotations

import io
import multiprocessing
import os
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from damaged_files import refusal
from picture_file import picture_file
from PIL import Image

import vmoe_runtime
from vmoe_measure.image_source import open_images
from vmoe_runtime import Engine, ImageError, images
from vmoe_runtime.bundle.manifest import InputSpec
from vmoe_runtime.images import ImageWarning, scale_pixels, to_batch
from vmoe_runtime.preprocessing import squash

pytestmark = pytest.mark.fast

BUNDLE = Path(__file__).parents[1] / "data" / "bundles" / "v3-plain"
RGB = InputSpec("float32", 12, 12, 3, squash(12, 12))
GREY = InputSpec("float32", 12, 10, 1, squash(12, 10))
PIXELS = np.random.default_rng(1).integers(0, 256, (12, 12, 3), np.uint8)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.load(BUNDLE, backend="onnxruntime")


def test_one_image_answers_one_row(engine: Engine, tmp_path: Path) -> None:
    expected = engine(PIXELS[None])
    assert expected.shape == (1, 7)
    floats = PIXELS.astype(np.float32) / np.float32(255) * np.float32(2) - np.float32(1)
    file = picture_file(PIXELS)
    (path := tmp_path / "x.png").write_bytes(file)
    ways = [PIXELS, floats, torch.from_numpy(PIXELS), torch.from_numpy(floats), Image.fromarray(PIXELS), file, path]
    with path.open("rb") as opened:
        for given in (
            *ways,
            str(path),
            np.str_(path),
            np.bytes_(file),
            opened,
            bytearray(file),
            memoryview(file),
            io.BytesIO(file),
        ):
            np.testing.assert_array_equal(engine(given), expected)
    np.testing.assert_array_equal(engine(ways), np.concatenate([expected] * len(ways)))
    np.testing.assert_array_equal(engine([ways[2:4], ways[:2]]), np.concatenate([expected] * 4))


def test_one_grey_image_may_leave_out_its_channel() -> None:
    pixels = PIXELS[:, :10, 0]
    expected = to_batch(pixels[None, :, :, None], GREY)
    for given in (pixels, pixels[None], pixels[..., None], torch.from_numpy(pixels.copy()), [pixels]):
        np.testing.assert_array_equal(to_batch(given, GREY), expected)


TYPED = """
from typing import Any
from vmoe_runtime import Engine

class Tensor:
    def __array__(self, dtype: object = None) -> Any: ...

def call(engine: Engine, tensor: Tensor, file: memoryview) -> None:
    engine(tensor), engine([tensor, file])
"""


def test_a_program_may_pass_tensors_and_memory_by_its_types(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mypy", "--config-file=", "--strict", "--cache-dir", str(tmp_path), "-c", TYPED]
    found = subprocess.run(
        command,
        env=os.environ | {"MYPYPATH": str(Path(vmoe_runtime.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr


def with_itself() -> list[Any]:
    images: list[Any] = []
    images.append(images)
    return images


REFUSED: dict[str, tuple[Any, str]] = {
    "channels in front": (np.zeros((2, 3, 12, 12), np.float32), "np.transpose(images, (0, 2, 3, 1))"),
    "one image with channels in front": (torch.zeros(3, 12, 12), "np.transpose(images, (1, 2, 0))"),
    "another size": (
        np.zeros((9, 9, 3), np.uint8),
        "takes (N, 12, 12, 3) or (12, 12, 3); pictures of any size are taken as",
    ),
    "grey": (np.zeros((12, 12), np.uint8), "shape (12, 12), and the model takes"),
    "an empty batch": (np.zeros((0, 12, 12, 3), np.float32), "empty"),
    "an empty list": ([], "empty"),
    "one number": (np.zeros((), np.float32), "()"),
    "int64": (PIXELS.astype(np.int64), "int64"),
    "bool": (PIXELS.astype(bool), "bool"),
    "objects": (PIXELS.astype(object), "object"),
    "in another byte order": (PIXELS.astype(">f4"), ">f4"),
    "nothing": (None, "NoneType"),
    "numbers in a list": ([0.5, 0.5], "float"),
    "pixels as floats": (PIXELS.astype(np.float32), "pass pixels 0..255 as uint8, or scale them"),
    "infinite": (np.full((1, 12, 12, 3), -np.inf, np.float32), "go from -inf to -inf"),
    "infinite beside NaN": (np.array([np.nan, np.inf] * 216, np.float32).reshape(12, 12, 3), "go from inf to inf"),
    "float64": (PIXELS / 255, "images are float64, and the model takes float32 in [-1, 1], or uint8; pass images.astype"),
    "a tensor of bfloat16": (torch.zeros(12, 12, 3, dtype=torch.bfloat16), "doesn't become an array"),
    "a tensor that requires grad": (torch.zeros(12, 12, 3, requires_grad=True), "detach()"),
    "a list that contains itself": (with_itself(), "or itself"),
    "an image of no pixels": (Image.new("RGB", (0, 0)), "has no pixels: it is 0x0"),
    "an image of no height": (Image.new("RGB", (5, 0)), "has no pixels: it is 0x5"),
    "bytes of no picture": (b"none", "not a readable image (none of AVIF, BMP"),
    "no bytes": (b"", "not a readable image"),
    "a damaged AVIF": (picture_file(Image.new("L", (40, 40)), "AVIF")[:-20] + bytes(20), "not a readable image"),
    "a file of text": (__file__, "test_image_inputs.py is not a readable image"),
    "cut bytes": (picture_file(PIXELS)[:200], "not a readable image"),
    "a text file object": (io.StringIO("none"), "read() returns a str, not bytes"),
    "16 bits": (Image.fromarray(np.zeros((12, 12), np.uint16)), "more than 8 bits per channel"),
    "a number": (3, "arrays, torch tensors, PIL images, file paths, the bytes of files, file objects, or a list of these"),
    "a path with a null character": ("a\0.png", "null"),
    "a path that is not UTF-8": (os.fsdecode(b"caf\xe9.png"), r"caf\udce9.png is not a readable image (No such file"),
    "a folder": (os.fspath(BUNDLE), "is a folder, and images are read from plain files"),
    "a device": ("/dev/zero", "/dev/zero is a device or pipe, and images are read from plain files"),
    "EPS, which would run another program": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a readable image"),
}


@pytest.mark.parametrize(("images", "words"), REFUSED.values(), ids=REFUSED)
@pytest.mark.filterwarnings("ignore::vmoe_runtime.images.ImageWarning")
def test_images_are_refused_that_are(images: Any, words: str) -> None:
    for given in (images, [images]):
        with refusal(ImageError, words):
            to_batch(given, RGB)


@pytest.mark.parametrize(("mode", "spec"), [("LAB", GREY), ("La", GREY), ("La", RGB)])
def test_colours_that_pillow_does_not_convert(mode: str, spec: InputSpec) -> None:
    given: list[Any] = [Image.new(mode, (12, 12))]
    if mode == "LAB":  # of the tested modes, only this one is possible in an image file
        given.append(picture_file(given[0], "TIFF"))
    for image in given:
        with pytest.raises(ImageError, match=f"the image has colours \\(mode {mode}\\) that don't become"):
            to_batch(image, spec)


def test_a_pipe_is_no_image_and_nobody_waits_for_it(tmp_path: Path) -> None:
    # Opening a pipe that nobody writes to would block forever.
    os.mkfifo(pipe := tmp_path / "pipe.png")
    with pytest.raises(ImageError, match=r"pipe\.png is a device or pipe"):
        to_batch(pipe, RGB)
    with pytest.raises(ImageError, match=r"pipe\.png is a device or pipe"):
        open_images(pipe, None, None)


@pytest.mark.filterwarnings("ignore::vmoe_runtime.images.ImageWarning")
@pytest.mark.parametrize(("module", "step"), [(Image, "init"), (images, "unturned_pictures")])
def test_a_process_that_is_forked_while_a_picture_is_opened_opens_pictures(
    module: ModuleType, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_opening, may_open, take_step = threading.Event(), threading.Event(), getattr(module, step)
    (exif := Image.Exif())[0x0112] = 3
    file = picture_file(PIXELS, exif=exif)

    def take_step_slowly() -> object:
        is_opening.set()
        may_open.wait(0.5)
        return take_step()

    monkeypatch.setattr(module, step, take_step_slowly)
    with ThreadPoolExecutor(1) as pool:
        opened = pool.submit(to_batch, file, RGB)
        is_opening.wait()
        child = multiprocessing.get_context("fork").Process(target=to_batch, args=(file, RGB))
        child.start()
        may_open.set()
        opened.result()
    child.join(20)
    child.kill()
    assert child.exitcode == 0


def warned(engine: Engine, *batches: Any) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for batch in batches:
            engine(batch)
    return [each for each in seen if each.category is ImageWarning]


def test_images_within_nought_and_one_and_nan_are_warned_of_once_per_engine() -> None:
    unit = np.random.default_rng(0).uniform(0, 1, (1, 12, 12, 3)).astype(np.float32)
    nan = unit * 2 - 1
    nan[0, 3, 4, 1] = np.nan
    for _ in range(2):
        with Engine.load(BUNDLE, backend="onnxruntime") as engine:
            seen = warned(engine, unit, unit, nan, unit, nan)
        assert [str(each.message)[:18] for each in seen] == ["the images go from", "the images have Na"]
        # The warning points to the caller's line, not to a line of this package.
        assert {each.filename for each in seen} == {__file__}


def test_images_that_a_model_was_trained_on_are_not_warned_of(engine: Engine) -> None:
    batch = np.random.default_rng(0).uniform(-2, 2, (1, 12, 12, 3)).astype(np.float32)
    assert not warned(engine, batch, np.zeros((1, 12, 12, 3), np.uint8))
    # None of these inputs may cause a warning. uint8 images are valid, because the engine scales them. A single bright image
    # doesn't justify a warning either, because it does not show the value range of a whole batch.
    bright = np.full((12, 12, 3), 200, np.uint8)
    floats = np.full((1, 12, 12, 3), 0.5, np.float32)
    for given in (
        bright,
        [bright],
        Image.fromarray(bright),
        picture_file(bright),
        [floats, batch],
        [bright, batch],
        scale_pixels(bright),
    ):
        assert not warned(engine, given)
    assert len(warned(engine, [floats, bright], floats)) == 1
