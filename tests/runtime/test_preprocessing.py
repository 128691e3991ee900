"""Check that preprocessed pictures equal recorded outputs of the official code.

If the file format is PNG, they must be equal bit for bit.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import PIL
import pytest
from damaged_files import refusal
from picture_file import picture_file
from PIL import Image, ImageOps

from vmoe_export import ConfigError, ExportOptions, OptionError, export_bundle
from vmoe_export.families.image_processors import processor_steps
from vmoe_export.options.preprocessing_steps import default_steps, parse_steps
from vmoe_runtime import Engine, ImageError
from vmoe_runtime.bundle.manifest import InputSpec
from vmoe_runtime.images import to_batch, unturned_pictures
from vmoe_runtime.resampling import GREY_WEIGHTS

pytestmark = pytest.mark.fast

DATA = Path(__file__).parents[1] / "data" / "preprocess"
LEVEL = 2 / 255
FAMILIES = json.loads((DATA / "families.json").read_text())  # family -> its preprocessor_config.json
OFFICIAL = dict(np.load(DATA / "preprocess.npz"))  # "file name|steps" -> float32[H,W,3]


def spec_of(steps: str, height: int, width: int, channels: int = 3, dtype: str = "float32") -> InputSpec:
    return InputSpec(dtype, height, width, channels, parse_steps(steps))  # type: ignore[arg-type]


@pytest.mark.parametrize("case", OFFICIAL)
def test_a_picture_becomes_what_the_official_code_makes_of_it(case: str) -> None:
    name, _, steps = case.partition("|")
    expected = OFFICIAL[case]
    found = to_batch(DATA / name, spec_of(steps, *expected.shape[:2]))[0]
    if name.endswith(".png"):
        # For PNG, the official code uses exactly the same operations, so even the last bit is equal.
        np.testing.assert_array_equal(found, expected)
    else:
        # TensorFlow's JPEG decoder is faster than Pillow's and gives slightly different values.
        assert np.abs(found - expected).max() <= 8.001 * LEVEL


@pytest.mark.parametrize("case", [case for case in OFFICIAL if ".png" in case])
def test_a_uint8_model_gets_whole_pixels_rounded_half_to_even(case: str) -> None:
    name, _, steps = case.partition("|")
    expected = OFFICIAL[case]
    found = to_batch(DATA / name, spec_of(steps, *expected.shape[:2], dtype="uint8"))[0]
    exact = (expected.astype(np.float64) + 1) / 2 * 255
    assert found.dtype == np.uint8 and np.abs(found - exact).max() <= 0.5 + 1e-4


def test_halves_go_to_the_even_pixel() -> None:
    spec = spec_of("resize_small(1)|central_crop(1)", 1, 1, 1, "uint8")
    for total, expected in ((2, 0), (6, 2), (10, 2), (14, 4)):
        assert to_batch(Image.fromarray(np.array([[total, 0], [0, 0]], np.uint8)), spec) == expected


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_a_picture_and_without_that_step_it_counts(form: str, orientation: int) -> None:
    picture = Image.fromarray(np.arange(48 * 32 * 3, dtype=np.uint32).astype(np.uint8).reshape(48, 32, 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    noted, before = picture_file(picture, form, exif=exif), unturned_pictures()
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(noted)))
    for steps, expected in (
        ("exif|resize(16)", turned),
        ("resize(16)", Image.open(io.BytesIO(picture_file(picture, form)))),
    ):
        np.testing.assert_array_equal(
            to_batch(noted, spec_of(steps, 16, 16)), to_batch(expected.convert("RGB"), spec_of("resize(16)", 16, 16))
        )
    assert unturned_pictures() - before == (orientation > 1)


@pytest.mark.parametrize("mode", ["LA", "P", "PA", "RGBA"])
def test_a_background_is_what_pillow_pastes_on(mode: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 53, 4), np.uint8))
    picture = noise.convert("RGB").quantize(16) if mode == "P" else noise.convert(mode)
    if mode == "P":
        picture.info["transparency"] = bytes([0, 128, 200])
    colours = picture.convert("RGBA")
    expected = Image.new("RGB", picture.size, (255, 9, 30))
    expected.paste(colours.convert("RGB"), mask=colours.getchannel("A"))
    found = to_batch(picture, spec_of("background(255,9,30)|resize(16)", 16, 16))
    np.testing.assert_array_equal(found, to_batch(expected, spec_of("resize(16)", 16, 16)))


def test_the_weights_of_grey_are_those_of_pillow() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (1000, 1000, 3), np.uint8)
    grey = (pixels @ np.array(GREY_WEIGHTS) + (1 << 15)) >> 16
    np.testing.assert_array_equal(grey, Image.fromarray(pixels).convert("L"))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_of_any_mode_is_that_converted_by_pillow(mode: str, channels: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
    picture = Image.fromarray(noise).convert(mode)
    whole = picture.convert("RGB" if channels == 3 else "L")
    for steps in ("resize(20)", "resize_small(25)|central_crop(20)", "central_crop(20)"):
        spec = spec_of(steps, 20, 20, channels)
        np.testing.assert_array_equal(to_batch(picture, spec), to_batch(whole, spec))


@pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 13, reason="older versions always resize along rows first")
@pytest.mark.parametrize("how", ["bilinear", "bicubic"])
def test_steps_of_pillow_give_its_pixels(how: str) -> None:
    generator = np.random.default_rng(0)
    for number in range(30):
        *shape, height, width = (int(10 ** generator.uniform(0, 2.5)) for _ in range(4))
        channels = (1, 3)[number % 2]
        whole = Image.fromarray(generator.integers(0, 256, (*shape, 3), np.uint8)).convert("L" if channels == 1 else "RGB")
        filter_of_pillow = Image.Resampling[how.upper()]
        expected = np.asarray(whole.resize((width, height), filter_of_pillow)).reshape(1, height, width, channels)
        found = to_batch(whole, spec_of(f"pillow_{how}({height},{width})", height, width, channels, "uint8"))
        np.testing.assert_array_equal(found, expected)
        small, short = min(height, 40), min(shape)
        resized = (int(small * whole.width / short), int(small * whole.height / short))
        left, top = (round((side - small) / 2) for side in resized)
        expected = np.asarray(whole.resize(resized, filter_of_pillow).crop((left, top, left + small, top + small)))
        spec = spec_of(f"pillow_{how}_small({small})|round_central_crop({small})", small, small, channels, "uint8")
        np.testing.assert_array_equal(to_batch(whole, spec), expected.reshape(1, small, small, channels))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_picture_becomes_what_the_library_of_a_family_makes_of_it(family: str) -> None:
    with np.load(DATA / "families.npz") as arrays:
        picture, expected = arrays[f"{family}/picture"], arrays[f"{family}/processed"].transpose(1, 2, 0)
    steps, mean, std = processor_steps(FAMILIES[family])
    pixels = to_batch(Image.fromarray(picture), InputSpec("uint8", *expected.shape[:2], 3, steps))[0]
    levels = np.abs((pixels / 255 - mean) / std - expected) * std * 255
    # transformers resizes with torchvision, which differs from Pillow by up to one grey level in these pictures.
    assert levels.max() < (1.001 if family.startswith("hf_") else 0.001)


VIT, CLIP = {"image_processor_type": "ViTImageProcessor"}, {"image_processor_type": "CLIPImageProcessor"}
OLD_CLIP = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 336, "crop_size": 336}
NAFLEX = {"image_processor_type": "Siglip2ImageProcessor"}
DINOV2 = {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 256}}
SQUASH = {"crop_mode": "squash", "crop_pct": 1.0, "interpolation": "bilinear"}
SAID = {
    "ViT's own": (VIT, None, "exif|pillow_bilinear(224)"),
    "an old ViT": (
        {"feature_extractor_type": "ViTFeatureExtractor", "size": 384, "resample": 3},
        None,
        "exif|pillow_bicubic(384)",
    ),
    "an old DeiT": (
        {"feature_extractor_type": "DeiTFeatureExtractor", "size": 256, "resample": 3},
        None,
        "exif|pillow_bicubic(256)|central_crop(224)",
    ),
    "a ViT that keeps the ratio": (
        {**VIT, "size": 256, "default_to_square": False, "do_center_crop": True},
        None,
        "exif|pillow_bilinear_small(256)|central_crop(224)",
    ),
    "SigLIP's own": ({"image_processor_type": "SiglipImageProcessorFast"}, (256, 128), "exif|pillow_bicubic(256,128)"),
    "SigLIP 2's of one size": (
        {"image_processor_type": "SiglipImageProcessor", "resample": 2, "size": {"height": 384, "width": 384}},
        None,
        "exif|pillow_bilinear(384)",
    ),
    "NaFlex's own": (NAFLEX, None, "exif|pillow_bilinear(256)"),
    "NaFlex of more patches": ({**NAFLEX, "max_num_patches": 600}, None, "exif|pillow_bilinear(384)"),
    "NaFlex of another size": (NAFLEX, (192, 320), "exif|pillow_bilinear(192,320)"),
    "TIPSv2's own": ({"image_processor_type": "Tipsv2ImageProcessor"}, None, "exif|pillow_bilinear(448)"),
    "InternVL's": (
        {"image_processor_type": "GotOcr2ImageProcessorFast", "size": {"height": 448, "width": 448}},
        None,
        "exif|pillow_bicubic(448)",
    ),
    "CLIP's own": (CLIP, None, "exif|pillow_bicubic_small(224)|central_crop(224)"),
    "an old CLIP": (OLD_CLIP, None, "exif|pillow_bicubic_small(336)|central_crop(336)"),
    "DINOv2 of another size": (DINOV2, (518, 518), "exif|pillow_bicubic_small(592)|central_crop(518)"),
    "timm's own": ({"crop_pct": None, "std": None}, None, "pillow_bicubic_small(256)|round_central_crop(224)"),
    "timm of another size": ({"crop_pct": 0.9}, (384, 384), "pillow_bicubic_small(426)|round_central_crop(384)"),
    "timm's squash": (SQUASH, (40, 24), "pillow_bilinear(40,24)|round_central_crop(40,24)"),
}


@pytest.mark.parametrize(("config", "size", "steps"), SAID.values(), ids=SAID)
def test_files_of_other_libraries_are_read(config: dict[str, object], size: tuple[int, int] | None, steps: str) -> None:
    assert str(processor_steps(config, size)[0]) == steps


def test_flags_of_a_file_show_in_mean_and_deviation() -> None:
    config = {**VIT, "do_rescale": False}
    assert processor_steps(config)[1:] == ((0.5 / 255,) * 3, (0.5 / 255,) * 3)
    assert processor_steps({**config, "do_normalize": False})[1:] == ((0,) * 3, (1 / 255,) * 3)
    assert processor_steps(CLIP)[1][0] == 0.48145466
    assert processor_steps({"image_processor_type": "Tipsv2ImageProcessor"})[1:] == ((0.0,) * 3, (1.0,) * 3)


UNTAKEN = {
    "a list": ([], "must be an object"),
    "nothing": ({"size": 224}, "is for None; supported are ViT"),
    "another processor": ({"image_processor_type": "ConvNextImageProcessor"}, "'ConvNextImageProcessor'; supported are ViT"),
    "a lanczos": ({**VIT, "resample": 1}, "resizes pictures by 'lanczos'"),
    "a filter that is a list": ({**VIT, "resample": []}, "'resample' must be a number of Pillow's, such as 3"),
    "a filter that is text": ({**VIT, "resample": "bicubic"}, "'resample' must be a number of Pillow's"),
    "no resize": ({**VIT, "do_resize": False}, "must resize"),
    "crops of patches": ({"image_processor_type": "GotOcr2ImageProcessor", "crop_to_patches": True}, "several sizes"),
    "no crop": ({**CLIP, "do_center_crop": False}, "several sizes"),
    "another scale": ({**VIT, "rescale_factor": 1 / 127.5}, "must be 1/255"),
    "the longest side": ({**VIT, "size": {"longest_edge": 224}}, "longest_edge"),
    "a side that is text": ({**VIT, "size": {"height": "224", "width": 224}}, "1 to 65536 pixels, not '224'"),
    "a crop that would need a frame": ({**CLIP, "crop_size": 256}, "takes more pixels"),
    "two means": ({**VIT, "image_mean": [0.5, 0.5]}, "'image_mean' must be a positive number for each channel"),
    "a mean that is none": ({**VIT, "image_mean": [0.5, 0.5, float("nan")]}, "'image_mean' must be a positive number"),
    "no deviation": ({"std": [0.5, 0, 0.5]}, "'std' must be a positive number"),
    "one deviation": ({"std": [0.5]}, "'std' must be a positive number"),
    "random filters": ({"interpolation": "random"}, "resizes pictures by 'random'"),
    "a frame": ({"crop_mode": "border"}, "'border'"),
    "no input size": ({"input_size": 224}, "channels, height and width"),
    "hardly a share": ({"crop_pct": 1e-320}, "is not a step"),
}


@pytest.mark.parametrize(("config", "sentence"), UNTAKEN.values(), ids=UNTAKEN)
def test_files_are_refused_that_say(config: dict[str, object], sentence: str) -> None:
    with refusal(ConfigError, sentence):
        processor_steps(config)


def test_steps_are_read_as_the_official_configs_write_them() -> None:
    written = "decode|resize_small(256)|central_crop(224)|value_range(-1,1)"
    assert str(parse_steps(written)) == "resize_small(256)|central_crop(224)"
    assert str(parse_steps(" resize_small( 256 ) | central_crop(224,196) ")) == "resize_small(256)|central_crop(224,196)"
    assert str(parse_steps("resize(30,30)")) == "resize(30)"
    assert str(default_steps(224, 224)) == "resize_small(256)|central_crop(224)"
    assert str(default_steps(384, 384)) == "resize(384)" and str(default_steps(224, 384)) == "resize(224,384)"


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ("decode|value_range(-1,1)", "is not a step"),
        ("decode|inception_crop(224)", "'inception_crop(224)' is not a step"),
        ("resize(28)|value_range(0,1)", "'value_range(0,1)' is not a step"),
        ("value_range(-1,1)|resize(28)", "comes first"),
    ],
)
def test_official_steps_are_refused_as_those_of_a_manifest_are(steps: str, sentence: str) -> None:
    with refusal(ValueError, sentence):  # the refused manifests are listed in bundle_manifest_cases.py
        parse_steps(steps)


def test_a_picture_too_small_or_too_narrow_for_the_steps_is_named() -> None:
    with pytest.raises(ImageError, match=r"the image is too small for central_crop\(20\): it has 10x30 pixels there"):
        to_batch(Image.new("L", (30, 10)), spec_of("central_crop(20)", 20, 20, 1))
    with pytest.raises(ImageError, match=r"the image is too long and narrow: resize_small\(256\) makes 256x256000000"):
        to_batch(Image.new("L", (1_000_000, 1)), spec_of("resize_small(256)|central_crop(224)", 224, 224, 1))
    with pytest.raises(ImageError, match=r"the image is too long and narrow: pillow_bicubic_small\(256\) makes 256x76800 "):
        to_batch(Image.new("L", (300, 1)), spec_of("pillow_bicubic_small(256)|central_crop(224)", 224, 224, 1))


CHECKPOINT = "samples/mnist/vmoe_mnist"


def test_an_export_stores_its_steps_and_hands_them_on(tmp_path: Path) -> None:
    steps = "decode|resize_small(32)|central_crop(28)|value_range(-1,1)"
    export_bundle(CHECKPOINT, tmp_path / "chosen.vmoe", validate=False, preprocess=steps)
    export_bundle(tmp_path / "chosen.vmoe", tmp_path / "handed_on.vmoe", validate=False)
    picture = Image.open(DATA / "wide.png")
    for name in ("chosen", "handed_on"):
        with Engine.load(tmp_path / f"{name}.vmoe") as engine:
            assert engine.manifest.raw["preprocessing"] == {"steps": "resize_small(32)|central_crop(28)"}
            prepared = to_batch(picture, spec_of(steps, 28, 28, 1))
            np.testing.assert_array_equal(engine(picture), engine(prepared))


def test_an_export_refuses_steps_that_end_in_another_size(tmp_path: Path) -> None:
    for steps in ("resize(30)", "resize_small(256)"):
        with pytest.raises(OptionError, match="the model takes 28x28"):
            export_bundle(CHECKPOINT, tmp_path / "x.vmoe", preprocess=steps)
    with pytest.raises(OptionError, match="preprocess is 28, but must be official steps"):
        ExportOptions(preprocess=28)  # type: ignore[arg-type]
