"""Tests for pictures of the routing: the files that are written, and the numbers that the pictures show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from named_bundles import ODD_NAMES, with_odd_names
from PIL import Image

from vmoe_measure.image_source import ImageSource
from vmoe_runtime import Engine
from vmoe_tools.charts import chart_classes, chart_gates, chart_loads
from vmoe_tools.inspect.samples import Samples, take_samples
from vmoe_tools.inspect.statistics import RoutingStatistics
from vmoe_tools.patch_pictures import expert_colours, picture_capacities, picture_experts
from vmoe_tools.program import main

LAYERS = [f"encoderblock_{i}" for i in range(5)]


@pytest.mark.slow
def test_pictures_are_written_whole_and_replaced(
    mnist_image_bundle: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    digits, out = tmp_path / "digits.npz", tmp_path / "pictures"
    odd = [mnist_images["labels"].tolist().index(digit) for digit in (1, 3)]  # images of two classes with unusual names
    np.savez(digits, **{name: array[odd] for name, array in mnist_images.items()})
    out.mkdir()
    (out / "load.png").write_text("an old one")
    named = with_odd_names(mnist_image_bundle, tmp_path)
    assert main(["inspect", str(named), "--images", str(digits), "--out", str(out), "-q"]) == 0
    names = ["classes", "experts", "gates", "load", *(f"capacity-{layer}" for layer in LAYERS)]
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{name}.png" for name in names)
    for path in out.iterdir():
        with Image.open(path) as picture:
            picture.load()
            assert 400 < picture.width < 3000 and 300 < picture.height < 3000


@pytest.fixture(scope="module")
def samples(mnist_bundle: Path, mnist_images: dict[str, np.ndarray]) -> Samples:
    with Engine.load(mnist_bundle, profile="c0.3-k1") as engine:
        source = ImageSource(mnist_images["images"][:16], mnist_images["labels"][:16].astype(np.int64))
        return take_samples(engine, source, engine.profile)


def overlay(figure: Any, row: int, column: int, columns: int) -> np.ndarray:
    """Return the RGBA colours that a panel draws over the patches. The panel in column 0 shows only the image."""
    layers = figure.axes[row * columns + column].images
    return np.asarray(layers[1].get_array())


def test_samples_are_the_first_images_at_rising_capacity(
    samples: Samples, mnist_bundle: Path, mnist_images: dict[str, np.ndarray]
) -> None:
    images = mnist_images["images"][:16]
    np.testing.assert_allclose(samples.pixels[..., 0] * 255, images[:6], atol=1e-3)
    assert [frame.name for frame in samples.frames] == ["c0.1-k1", "c0.25-k1", "c0.3-k1", "c0.5-k1", "c1-k1", "c2-k1"]
    with Engine.load(mnist_bundle) as engine:
        for frame in samples.frames:
            logits, routing = engine.logits_and_routing(images, frame.name)
            assert frame.answers is not None and frame.answers.tolist() == logits[:6].argmax(1).tolist()
            for layer in LAYERS:
                np.testing.assert_array_equal(frame.patches[layer][0] >= 0, routing[layer].patch_mask()[:6])
    assert samples.own is samples.frames[2]


def test_dropped_patches_are_greyed_and_no_others(samples: Samples) -> None:
    frames = picture_capacities(samples, LAYERS[3], None)
    for row_, column in np.ndindex(6, 6):
        alpha = overlay(frames, row_, column + 1, 7)[..., 3]
        processed = samples.frames[column].patches[LAYERS[3]][0, row_] >= 0
        np.testing.assert_array_equal(alpha > 0, ~processed)
        assert set(alpha[alpha > 0]) <= {0.86}
        label = frames.axes[row_ * 7 + column + 1].get_xlabel()
        assert label.startswith(f"{processed.sum()} of 49\n")


def test_patches_have_the_colour_and_the_number_of_their_expert(samples: Samples) -> None:
    figure = picture_experts(samples, None)
    colours = [to_rgb(colour) for colour in expert_colours(8)]
    for row_, column in np.ndindex(6, 5):
        expert = samples.own.patches[LAYERS[column]][0, row_]
        tint = overlay(figure, row_, column + 1, 6)
        for place, number in np.ndenumerate(expert):
            expected = colours[number] if number >= 0 else to_rgb("#8c8c8c")
            assert tuple(tint[place][:3]) == expected
        texts = [text.get_text() for text in figure.axes[row_ * 6 + column + 1].texts]
        assert texts == [str(number) for number in expert.ravel() if number >= 0]


def test_merged_patches_are_outlined(mnist_image_bundle: Path, mnist_images: dict[str, np.ndarray]) -> None:
    with Engine.load(mnist_image_bundle) as engine:
        samples = take_samples(engine, ImageSource(mnist_images["images"][:6], None), engine.setting("c0.3-k1-r8"))
        routing = engine.routing(mnist_images["images"][:6], "c0.3-k1-r8")
    figure = picture_experts(samples, None)
    assert "merged into one token" in figure.get_suptitle()
    for row_, column in np.ndindex(6, 5):
        token = routing[LAYERS[column]].token[row_, 1:].reshape(7, 7)
        assert_outlined(np.asarray(figure.axes[row_ * 6 + column + 1].images[2].get_array()), token)


def assert_outlined(pixels: np.ndarray, token: np.ndarray) -> None:
    """Assert that the opaque pixels in `pixels`, f64[56,56,RGBA], outline the merged patches.

    Each merged token has its own colour. `token` is the index of each patch's token.
    """
    of_patch = pixels.reshape(7, 8, 7, 8, 4).swapaxes(1, 2)
    is_drawn = of_patch[..., 3] == 1
    tokens, counts = np.unique(token, return_counts=True)
    colours = [{tuple(pixel) for pixel in of_patch[token == one].reshape(-1, 4) if pixel[3] == 1} for one in tokens]
    assert [len(seen) for seen in colours] == (counts > 1).tolist()
    assert len(set().union(*colours)) == sum(map(len, colours)) > 0
    right = np.isin(token, tokens[counts > 1])[:, :-1] & (np.diff(token) != 0)
    assert (is_drawn[:, :-1, 4, 7] == right).all() and not is_drawn[..., 1:-1, 1:-1].any()


def test_charts_have_the_numbers(mnist_bundle: Path, mnist_images: dict[str, np.ndarray]) -> None:
    statistics = RoutingStatistics(10)
    with Engine.load(mnist_bundle) as engine:
        statistics.add(engine.routing(mnist_images["images"][:32]), 32, mnist_images["labels"][:32])
    layers = statistics.layers()
    loads, gates, classes = chart_loads(layers), chart_gates(layers), chart_classes(layers, ODD_NAMES)
    for index, layer in enumerate(layers.values()):
        assert layer.requested is not None and layer.class_weight is not None
        bars = [bar.get_height() for bar in loads.axes[index].patches]
        np.testing.assert_allclose(bars, [*layer.load, *(layer.requested - layer.load)])
        bars = [bar.get_height() for bar in gates.axes[index].patches]
        np.testing.assert_allclose(bars, np.concatenate([layer.gates_kept, layer.gates_dropped]) / layer.requested.sum())
        (image,) = classes.axes[index].images
        np.testing.assert_array_equal(image.get_array(), layer.class_weight[~np.isnan(layer.class_weight).any(axis=1)])
