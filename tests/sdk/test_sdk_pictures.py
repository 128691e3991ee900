"""Tests of pictures in the C++ SDK.

The SDK must prepare pictures with the same bits as Python, accept the same preprocessing steps, and need little memory.
"""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sdk_build
from bundle_verdicts import cpp_answers, with_manifest
from damaged_files import copied_bundle, put
from PIL import Image

from vmoe_export.options.preprocessing_steps import parse_steps
from vmoe_runtime import BundleError, ImageError
from vmoe_runtime.bundle.manifest_reader import parse_manifest
from vmoe_runtime.images import to_batch

BUNDLE = Path(__file__).parents[1] / "data" / "bundles" / "v3-plain"
DATA = Path(__file__).parents[1] / "data" / "preprocess"
OFFICIAL = dict(np.load(DATA / "preprocess.npz"))  # "file name|steps" -> float32[H,W,3]


def manifest(preprocessing: Any, height: int, width: int, channels: int = 3, dtype: str = "float32") -> bytes:
    content = json.loads((BUNDLE / "manifest.json").read_bytes())
    content["input"] |= {"height": height, "width": width, "channels": channels, "dtype": dtype}
    content["preprocessing"] = preprocessing
    return json.dumps(content).encode()


def ask(pairs: Iterable[tuple[bytes, np.ndarray]], orientation: int = 0) -> list[bytes | str]:
    """Prepare pictures in C++, each for its own manifest. Return each image's bytes or a refusal message.

    `pairs` contains (manifest, picture) pairs. Pictures are uint8[H,W,C].
    """
    pictures = [
        with_manifest(text, struct.pack("4q", *pixels.shape, orientation) + pixels.tobytes()) for text, pixels in pairs
    ]
    return [bytes.fromhex(rest) if word == "ok" else rest for word, rest in cpp_answers("picture", pictures)]


def python(text: bytes, pixels: np.ndarray, orientation: int = 0) -> bytes | str:
    """Prepare one picture in Python. In the same way as `ask`, return the image's bytes or a refusal message."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    image.getexif()[0x112] = orientation
    try:
        return to_batch(image, parse_manifest(text).input)[0].tobytes()
    except (ImageError, BundleError) as error:
        return str(error).replace("the image", "the picture")


def test_official_pictures_become_the_bits_of_python_and_of_the_official_code() -> None:
    cases, expected = [], []
    for case, official in OFFICIAL.items():
        name, _, steps = case.partition("|")
        pixels = np.asarray(Image.open(DATA / name).convert("RGB"))
        for dtype in ("float32", "uint8"):
            text = manifest({"steps": str(parse_steps(steps))}, *official.shape[:2], dtype=dtype)
            cases.append((text, pixels))
            expected.append(python(text, pixels))
            if dtype == "float32" and name.endswith(".png"):
                assert expected[-1] == official.tobytes()
    assert len(cases) == 60
    assert ask(cases) == expected


def test_pictures_of_odd_shapes_become_the_bits_of_python() -> None:
    generator = np.random.default_rng(0)
    steps = [
        "resize({0},{1})",
        "central_crop({0},{1})",
        "resize_small({2})|central_crop({0},{1})",
        "central_crop(9)|resize({0},{1})",
        "pillow_bicubic({0},{1})",
        "pillow_bilinear({0},{1})",
        "pillow_bicubic_small({2})|round_central_crop({0},{1})",
        "round_central_crop(9)|pillow_bilinear_small({2})|central_crop({0},{1})",
    ]
    cases = []
    for number in range(600):
        height, width, small = (int(n) for n in generator.integers(1, 40, 3))
        chosen = steps[number % 8].format(height, width, max(height, width) + small)
        shape = [int(10 ** generator.uniform(0, 3)) for _ in range(2)]
        channels = (1, 3)[number // 8 % 2]
        pixels = generator.integers(0, 256, (*shape, channels), np.uint8)
        cases.append((manifest({"steps": chosen}, height, width, channels, ("float32", "uint8")[number // 16 % 2]), pixels))
    for shape in ((1, 20_000, 3), (20_000, 1, 3), (999, 2, 1), (2, 999, 1), (3_000_000, 1, 1)):  # the last are refused
        for chosen in ("pillow_bicubic(24)", "pillow_bilinear(24)", "pillow_bicubic_small(24)|round_central_crop(24)"):
            pixels = generator.integers(0, 2, shape, np.uint8) * np.uint8(255)
            cases.append((manifest({"steps": chosen}, 24, 24, shape[2], "uint8"), pixels))
    # This picture is so long that float32 can't represent all positions in it.
    cases.append((manifest({"steps": "resize(24)"}, 24, 24, 1), generator.integers(0, 256, (1, 20_000_001, 1), np.uint8)))
    expected = [python(*case) for case in cases]
    assert sum(isinstance(answer, bytes) for answer in expected) > 400
    assert sum(isinstance(answer, str) for answer in expected) > 10  # these pictures are too small for the crop
    assert ask(cases) == expected


@pytest.mark.sample(5)
@pytest.mark.parametrize("orientation", range(9))
def test_pictures_are_turned_and_put_on_their_background_as_in_python(orientation: int) -> None:
    generator = np.random.default_rng(orientation)
    cases = []
    for first in ("", "exif|", "background(255,0,9)|", "exif|background(1,254,128)|"):
        for channels in (1, 2, 3, 4):
            for _ in range(10):
                pixels = generator.integers(0, 256, (*generator.integers(1, 40, 2), channels), np.uint8)
                cases.append(
                    (manifest({"steps": f"{first}pillow_bicubic(9,12)"}, 9, 12, (channels - 1) // 2 * 2 + 1), pixels)
                )
    assert ask(cases, orientation) == [python(*case, orientation) for case in cases]


@pytest.fixture(scope="module")
def program() -> Path:
    return sdk_build.program(sdk_build.prefixes().standard_ops, "sdk_prepare")


def prepare(program: Path, bundle: Path, shape: tuple[int, ...], *files: str | Path) -> subprocess.CompletedProcess[str]:
    return sdk_build.run(program, bundle, sdk_build.onnxruntime_library(), *map(str, shape), *files)


def with_steps(folder: Path, steps: str) -> Path:
    """Copy a bundle, and replace its preprocessing steps."""
    return copied_bundle(BUNDLE, folder / "x.vmoe", put("preprocessing", {"steps": steps}))


def test_a_program_prepares_a_picture_and_is_told_the_steps(program: Path, tmp_path: Path) -> None:
    bundle = with_steps(tmp_path, "resize_small(14)|central_crop(12)")
    pixels = np.asarray(Image.open(DATA / "wide.png"))
    pixels.tofile(tmp_path / "pixels")
    done = prepare(program, bundle, pixels.shape, tmp_path / "pixels", tmp_path / "image")
    assert (done.returncode, done.stdout) == (0, "resize_small(14)|central_crop(12)\n")
    assert (tmp_path / "image").read_bytes() == python((bundle / "manifest.json").read_bytes(), pixels)
    refused = prepare(program, bundle, (9, 9, 1), "-", tmp_path / "image")
    assert refused.stdout == "the picture has 1 channels, and the model takes 3\n"


@pytest.mark.parametrize(
    ("steps", "shape"),
    [
        *(("pillow_bicubic(12)", shape) for shape in ((9000, 9000, 3), (7, 1_000_000, 3), (1_000_000, 7, 3))),
        *(("resize(12)", shape) for shape in ((1, 80_000_000, 3), (80_000_000, 1, 3), (9000, 9000, 3))),
    ],
)
def test_a_picture_needs_64_mb_beside_itself_at_most(
    steps: str, shape: tuple[int, ...], program: Path, tmp_path: Path
) -> None:
    done = prepare(program, with_steps(tmp_path, steps), shape, "-", tmp_path / "image")
    assert (done.returncode, done.stdout) == (0, f"{steps}\n")
