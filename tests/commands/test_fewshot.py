"""Tests for `vmoe fewshot`, which fits a head for new classes to a few images per class."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from command_runs import Vmoe
from picture_file import write_pictures
from safetensors.numpy import load_file, save_file

from vmoe_export import export_bundle
from vmoe_runtime import Engine
from vmoe_runtime.classes import softmax
from vmoe_tools.fewshot.ridge import fit_head


@pytest.fixture(scope="module")
def features_bundle(mnist_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export a bundle that returns features and routes images in groups of 16.

    Neither the number of training images nor that of held-out images is a multiple of 16.
    """
    target = tmp_path_factory.mktemp("features") / "features.vmoe"
    export_bundle(mnist_checkpoint, target, capacity=[1.05], group="16", output="features", validate=False)
    return target


@pytest.fixture
def animals(tmp_path: Path, mnist_images: dict[str, np.ndarray]) -> Path:
    """Make a folder with two classes. Their subfolders contain 9 and 3 pictures of digits."""
    images, labels = mnist_images["images"], mnist_images["labels"]
    for name, digit, count in (("zebra", 0, 9), ("ant", 1, 3)):
        write_pictures(tmp_path / "animals" / name, images[labels == digit][:count])
    return tmp_path / "animals"


def test_ten_images_per_class_give_a_head_that_exports(
    features_bundle: Path, mnist_data: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path, vmoe: Vmoe
) -> None:
    words = ("fewshot", features_bundle, "--images", mnist_data, "-o", tmp_path / "head.npz")
    found = vmoe.json(*words)
    assert (found["profile"], found["classes"], found["fitted_images"]) == ("c1.05-k2", 10, 100)
    assert found["held_out_images"] == len(mnist_images["labels"]) - 100
    low, high = found["accuracy_95"]
    assert 0.85 < low < found["accuracy"] < high < 1
    bundle = export_bundle(features_bundle, tmp_path / "x.vmoe", head=tmp_path / "head.npz", validate=False).path
    with Engine.load(bundle) as engine:
        right = engine(mnist_images["images"]).argmax(axis=1) == mnist_images["labels"]
    assert abs(right.mean() - found["accuracy"]) < 0.01
    text, _ = vmoe.run(*words, "--per-class", 3, "--capacity", 0.3, "--seed", 1)
    assert "30 images to fit to, c0.3-k2" in text and "95 % interval" in text
    assert text.splitlines()[-1].endswith(f"next: vmoe export {features_bundle} --head {tmp_path / 'head.npz'}")


def test_folders_are_the_classes_and_the_bundle_has_their_names(
    features_bundle: Path, animals: Path, tmp_path: Path, vmoe: Vmoe
) -> None:
    found = vmoe.json("fewshot", features_bundle, "--images", animals, "-o", tmp_path / "head.npz", "--per-class", 5)
    # The class "ant" has three pictures, and one of them is held out. So the head is fitted to the other two and to
    # five pictures of the class "bee".
    assert (found["fitted_images"], found["held_out_images"], found["accuracy"]) == (5 + 2, 5, 1.0)
    (animals / "bee").mkdir()
    words = (features_bundle, "--head", tmp_path / "head.npz", "--group", "image", "-o", tmp_path / "animals.vmoe")
    vmoe.run("export", *words)
    said = vmoe.run("fewshot", features_bundle, "--images", animals, "-o", tmp_path / "head.npz", "--per-class", 5)[1]
    assert "vmoe: classes with at most 5 images: 1; one image of each is held out, the others are fitted to" in said
    assert "vmoe: ignored subfolders without pictures: bee" in said
    zebra = animals / "zebra" / "0.png"
    (answer,) = vmoe.json("run", tmp_path / "animals.vmoe", zebra)["images"]
    assert answer["classes"][0]["class"] == "zebra" and answer["classes"][0]["probability"] > 0.7


def test_a_head_is_refused_by_a_model_with_other_features(
    mnist_checkpoint: Path, features_bundle: Path, mnist_data: Path, tmp_path: Path, vmoe: Vmoe
) -> None:
    eighth, head, changed = tmp_path / "int8.vmoe", tmp_path / "head.npz", tmp_path / "changed.safetensors"
    export_bundle(features_bundle, eighth, precision="int8", validate=False)
    vmoe.run("fewshot", eighth, "--images", mnist_data, "-o", head)
    # The head was fitted to features of `features_bundle`. It also fits the same bundle in another precision, and the
    # checkpoint, because their features differ only by rounding and settings.
    for source, options in ((features_bundle, ()), (mnist_checkpoint, ("--precision", "bf16", "--exif", "--group", "8"))):
        vmoe.run("export", source, "--head", head, *options, "--no-validate", "--force", "-o", tmp_path / "x.vmoe")
    tensors = load_file(features_bundle / "weights.safetensors")
    save_file(tensors | {"Encoder/encoder_norm/scale": tensors["Encoder/encoder_norm/scale"] + 0.5}, changed)
    for source, options, what in (
        (changed, (), "other weights"),
        (mnist_checkpoint, ("--normalize",), "normalize not set, but here it is True"),
        (mnist_checkpoint, ("--preprocess", "resize(28,28)|central_crop(28)"), "preprocessing 'resize(28)', but here it is"),
    ):
        words = ("export", source, "--head", head, *options, "-o", tmp_path / "y.vmoe")
        assert f"{head}: it is fitted to the features of a model with {what}" in vmoe.complaint(2, *words)
    with np.load(head) as arrays:
        np.savez(tmp_path / "bare.npz", kernel=arrays["kernel"], bias=arrays["bias"])
    vmoe.run("export", changed, "--head", tmp_path / "bare.npz", "--no-validate", "-o", tmp_path / "y.vmoe")


@pytest.mark.parametrize(("images", "width"), [(40, 12), (12, 40)], ids=["more images", "more features"])
def test_a_head_is_the_closed_form_at_the_strength_that_left_out_images_choose(images: int, width: int) -> None:
    """Compare a fitted head with direct solutions of the equations.

    There is one direct solution for each strength and left-out image.
    """
    generator = np.random.default_rng(0)
    labels = np.arange(images) % 3
    features = (generator.normal(size=(images, width)) + np.eye(3, width)[labels] * 2 + 5).astype(np.float32)
    deviation = features.std(axis=0, dtype=np.float64) + 1e-5
    inputs = np.pad((features - features.mean(axis=0, dtype=np.float64)) / deviation, ((0, 0), (0, 1)), constant_values=100)
    targets = 2 * np.eye(3)[labels] - 1

    def solved(rows: np.ndarray, strength: float) -> np.ndarray:
        x = inputs[rows]
        return np.linalg.solve(x.T @ x + strength * np.eye(width + 1), x.T @ targets[rows])

    def left_out(strength: float) -> np.ndarray:
        return np.stack([inputs[i] @ solved(np.arange(images) != i, strength) for i in range(images)])

    errors = {strength: np.square(left_out(strength) - targets).mean() for strength in 2.0 ** np.arange(-10, 20)}
    head = fit_head(features, labels, 3)
    assert head.strength == min(errors, key=errors.__getitem__)
    scores, logits = inputs @ solved(np.arange(images) >= 0, head.strength), features @ head.kernel + head.bias
    scale = np.linalg.lstsq(scores.reshape(-1, 1), logits.reshape(-1), rcond=None)[0]
    np.testing.assert_allclose(logits, scale * scores, atol=1e-3)
    found = left_out(head.strength)
    likely = {each: np.log(softmax(each * found)[range(images), labels]).sum() for each in 2 ** (np.arange(13) / 2)}
    assert max(likely, key=likely.__getitem__) == pytest.approx(float(scale[0]), rel=1e-3)


def test_what_has_no_classes_or_no_features_is_refused(
    features_bundle: Path, mnist_bundle: Path, animals: Path, mnist_digits: Path, tmp_path: Path, vmoe: Vmoe
) -> None:
    (animals.parent / "one" / "ant").mkdir(parents=True)
    (animals / "ant" / "0.png").rename(animals.parent / "one" / "ant" / "0.png")
    (animals / "ant" / "1.png").unlink()
    shutil.copytree(animals, animals.parent / "loose")
    shutil.copy(animals / "zebra" / "0.png", animals.parent / "loose" / "a.png")
    np.savez(tmp_path / "bare.npz", images=np.zeros((4, 28, 28), np.uint8))
    np.savez(tmp_path / "gap.npz", images=np.zeros((4, 28, 28), np.uint8), labels=np.array([0, 0, 2, 2]))
    head = tmp_path / "head.npz"
    for bundle, images, out, code, words in (
        (mnist_bundle, mnist_digits, head, 1, "returns logits"),
        (features_bundle, tmp_path / "bare.npz", head, 1, "'labels' in addition to 'images'"),
        (features_bundle, animals.parent / "one", head, 1, "a subfolder of pictures for each class"),
        (features_bundle, animals, head, 1, "class ant has 1 image,"),
        (features_bundle, animals.parent / "loose", head, 1, "a.png is in no subfolder"),
        (features_bundle, tmp_path / "gap.npz", head, 1, "class 1 has no images"),
        (features_bundle, mnist_digits, tmp_path / "head.pt", 2, "must end in .npz"),
        (features_bundle, mnist_digits, mnist_digits, 2, "is used by this command"),
    ):
        assert words in vmoe.complaint(code, "fewshot", bundle, "--images", images, "-o", out)
    assert not head.exists()
