"""Tests for the sources of images for measurements.

The sources are npz files, folders of pictures, their labels, and synthetic images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from command_runs import QUICK, Vmoe
from picture_file import write_pictures

from vmoe_measure.image_labels import read_labels
from vmoe_measure.image_source import ImageSource, open_images, synthetic_images
from vmoe_runtime import ImageError
from vmoe_runtime.bundle.manifest import InputSpec, Manifest
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.preprocessing import squash

pytestmark = pytest.mark.fast

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RGB = InputSpec("float32", 32, 48, 3, squash(32, 48))


@pytest.fixture
def npz(tmp_path: Path, mnist_images: dict[str, np.ndarray]) -> Callable[..., Path]:
    """Return a function that writes an npz file.

    By default, the file has 70 labelled digits: four batches of 16, and six more digits.
    """

    def write(**changed: np.ndarray | None) -> Path:
        arrays = {"images": mnist_images["images"][:70], "labels": mnist_images["labels"][:70], **changed}
        path = tmp_path / "digits.npz"
        np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
        return path

    return write


@pytest.fixture
def manifest(mnist_bundle: Path) -> Manifest:
    """Return the manifest of the MNIST bundle, with names for its classes."""
    return dataclasses.replace(Bundle.open(mnist_bundle, verify=False).manifest, class_names=DIGITS)


@pytest.fixture
def pictures(tmp_path: Path, mnist_images: dict[str, np.ndarray]) -> Path:
    """Make a folder of 40 digits as PNG files, with one subfolder per class."""
    folder = tmp_path / "pictures"
    for path in write_pictures(folder, mnist_images["images"][:40], [DIGITS[label] for label in mnist_images["labels"]]):
        path.rename(path.with_suffix(".PNG"))
    (folder / "one" / "notes.txt").write_text("not a picture")
    return folder


def opened(path: Path, manifest: Manifest) -> ImageSource:
    """Open the images at a path in the same way as commands do for a bundle with this manifest."""
    return open_images(path, manifest.class_names, manifest.outputs if manifest.output == "logits" else None)


def test_synthetic_images_are_smooth_and_always_the_same() -> None:
    images = synthetic_images(3, RGB).images
    assert isinstance(images, np.ndarray)
    assert (images.shape, images.dtype) == ((3, 32, 48, 3), np.uint8)
    assert np.array_equal(images, synthetic_images(3, RGB).images)
    steps = np.abs(np.diff(images.astype(int), axis=2))
    assert 0 < steps.mean() < images.std() / 2


def test_subfolders_are_labels_by_the_name_or_the_index_of_a_class(
    pictures: Path, manifest: Manifest, mnist_images: dict[str, np.ndarray]
) -> None:
    deep = pictures / "one" / "images" / "of 2024"
    deep.mkdir(parents=True)
    first = next((pictures / "one").glob("*.PNG"))
    first.rename(deep / first.name)
    (pictures / "nine").rename(pictures / "9")
    source = opened(pictures, manifest)
    # The name of each file is the index of its image in the test set.
    chosen = [int(path.stem) for path in source.images if isinstance(path, Path)]
    assert source.labels is not None and source.labels.tolist() == mnist_images["labels"][chosen].tolist()
    assert len(set(source.labels[:16])) > 3, "a batch holds one class only"
    (pictures / "9").rename(pictures / "10")
    told = opened(pictures, manifest).note
    assert told and told.startswith("subfolder '10' is not one class of the bundle, so there is no top-1; labels are")
    twice = dataclasses.replace(manifest, class_names=(*DIGITS[:8], "one", "nine"))
    assert opened(pictures, twice).labels is None


def test_a_bundle_without_class_names_says_how_folders_become_labels(pictures: Path, manifest: Manifest) -> None:
    for index, name in enumerate(DIGITS):
        (pictures / name).rename(pictures / f"k{index}")
    assert opened(pictures, dataclasses.replace(manifest, class_names=None)).note == (
        "the bundle has no class names, so there is no top-1; "
        "labels are subfolders with the indices of classes (0, 1, ...), or a CSV file (--labels)"
    )


def test_hidden_files_and_empty_folders_are_no_pictures(pictures: Path, manifest: Manifest) -> None:
    (pictures / "one" / "._1.png").write_text("what another system notes")
    for hidden in (pictures / ".thumbnails", pictures / "one" / ".thumbnails"):
        hidden.mkdir()
        (hidden / "1.png").write_text("a thumbnail")
    (pictures / "no pictures").mkdir()
    (pictures / "no pictures" / "notes.txt").write_text("notes")
    source = opened(pictures, manifest)
    assert source.labels is not None and len(source) == 40
    assert not any(part.startswith(".") for path in source.images for part in path.relative_to(pictures).parts)


@pytest.mark.parametrize(
    ("name", "target", "says"),
    [("one/digit.png", "nothing.png", "leads nowhere"), ("two", "two", "leads nowhere"), ("one/up", "..", "that it is in")],
)
def test_links_are_followed_and_those_that_lead_nowhere_are_named(
    name: str, target: str, says: str, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "one").symlink_to(pictures)
    assert len(open_images(tmp_path / "links", DIGITS, None)) == len(open_images(pictures, DIGITS, None))
    (tmp_path / "links" / "one").unlink()
    (tmp_path / "links" / "one").mkdir()
    (tmp_path / "links" / name).symlink_to(target)
    with pytest.raises(ImageError, match=says):
        open_images(tmp_path / "links", DIGITS, None)


def test_pictures_without_a_subfolder_have_no_labels(pictures: Path, manifest: Manifest) -> None:
    flat = opened(pictures / "one", manifest)
    assert (flat.labels, flat.note) == (None, None)
    next((pictures / "nine").glob("*.PNG")).rename(pictures / "stray.PNG")
    source = opened(pictures, manifest)
    assert (source.labels, len(source)) == (None, 40)
    assert source.note == "some pictures are in no subfolder, so there is no top-1"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"images": None}, "has no array 'images', only ['labels']; expected is 'images', uint8 or float32"),
        ({"images": np.zeros(3, np.uint8)}, "'images' is uint8[3]; expected is 'images', uint8 or float32 [N,H,W,C]"),
        ({"images": np.zeros((16, 28, 28), ml_dtypes.bfloat16)}, "is |V2[16, 28, 28], which is how numpy stores bfloat16"),
        ({"labels": np.zeros(70)}, "'labels' is float64[70], and 70 images need 70 integers"),
        ({"labels": np.zeros(69, int)}, "'labels' is int64[69], and 70 images need 70 integers"),
        ({"labels": np.full(70, 10)}, "labels go from 10 to 10, and the model has classes 0 to 9"),
        ({"labels": np.full(70, -1)}, "labels go from -1 to -1"),
        ({"images": np.zeros((70, 28, 27), np.uint8)}, "images have shape (16, 28, 27)"),
        ({"images": np.zeros((70, 28, 28))}, "'images' is float64[70, 28, 28]; expected"),
        ({"images": np.zeros((9, 28, 28), np.uint8), "labels": None}, "needs 16 images, and --images has 9"),
        ({"images": np.zeros((0, 28, 28), np.uint8), "labels": np.zeros(0, int)}, "--images has 0"),
        (
            {"images": np.array([{}] * 16)},
            "holds an array of Python objects, which is not loaded; expected is 'images', uint8",
        ),
    ],
)
def test_an_npz_that_does_not_fit_is_one_sentence(
    mnist_bundle: Path, npz: Callable[..., Path], vmoe: Vmoe, changed: dict[str, np.ndarray | None], says: str
) -> None:
    assert says in vmoe.complaint(1, "bench", mnist_bundle, "--images", npz(**changed), *QUICK)


def test_other_files_are_no_images(tmp_path: Path, npz: Callable[..., Path], manifest: Manifest) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3))
    damaged = npz()
    damaged.write_bytes(damaged.read_bytes()[:-300])
    (tmp_path / "empty").mkdir()
    for name, says in {
        "one.npy": "is not an npz file; expected is 'images'",
        "digits.npz": "is not an npz file",
        "missing.npz": "No such file or directory",
        "empty": "has no pictures",
    }.items():
        with pytest.raises(ImageError, match=says):
            opened(tmp_path / name, manifest)


def test_a_picture_that_cannot_be_read_is_named(pictures: Path, manifest: Manifest) -> None:
    (pictures / "one" / "broken.png").write_text("no picture")
    source = opened(pictures, manifest)
    with pytest.raises(ImageError, match=r"broken\.png is not a readable image"):
        source.first_batch(len(source), manifest.input)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("file,label\na.png,one\nb/c.png,1\n", {"a.png": 1, "b/c.png": 1}),
        ('a.png,0\r\n\r\n"b,c.png", two \n', {"a.png": 0, "b,c.png": 2}),
        ("\ufeffa.png,2\nb.png, x\n", {"a.png": 2, "b.png": 3}),
    ],
    ids=repr,
)
def test_labels_are_names_or_indices(text: str, labels: dict[str, int], tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8", newline="")
    assert read_labels(tmp_path / "labels.csv", ("zero", "one", "two", " x"), tmp_path) == labels


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no labels"),
        ("file,label\n", "has no labels"),
        ("a.png,1\nb.png\n", "line 2: 'b.png' is not the path of a picture inside .*, a comma, and the name or index"),
        ("a.png,1\nb.png,drei\n", "line 2: 'drei' is not the name or index of one class"),
        ("labels.csv,onee\na.png,1\n", "line 1: 'onee' is not the name or index of one class"),
        ("a.png,1\na.png,2\n", "has a label already"),
        ("a.png,1\n./a.png,2\n", "has a label already"),
        ("a.png,1\n../b.png,1\n", "no path inside the folder"),
        ("/etc/passwd,1\n", "no path inside the folder"),
        ("a.png,-1\n0,-1\n", "line 2: "),
        ("a\udcff,1\n", "not a readable CSV file"),
    ],
    ids=repr,
)
def test_what_is_no_label_is_one_sentence(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ImageError, match=says):
        read_labels(tmp_path / "labels.csv", ("zero", "one", "two"), tmp_path)


def test_a_csv_file_labels_pictures(
    mnist_image_bundle: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path, vmoe: Vmoe
) -> None:
    write_pictures(tmp_path, mnist_images["images"][:6])
    rows = [f"{index}.png,{mnist_images['labels'][index]}" for index in (3, 1, 5)]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    labels = tmp_path / "labels.csv"
    arguments = ("bench", mnist_image_bundle, "--profile", "c1.05-k2", "--images", tmp_path, "--labels", labels, *QUICK)
    (found,) = vmoe.json(*arguments)["points"]
    assert (found["images"], found["top1"]) == (3, 1.0)
    assert f"3 of the pictures in {tmp_path} have no label and are left out" in vmoe.run(*arguments)[1]
    (tmp_path / "labels.csv").write_text("\n".join([*rows, "9.png,1"]))
    assert f"9.png, which is no file; write paths as they are inside {tmp_path}" in vmoe.complaint(1, *arguments)
    (tmp_path / "labels.csv").write_text("\n".join([*rows, "0.png,10"]))
    says = f"{tmp_path / 'labels.csv'}: labels go from "
    assert says in vmoe.complaint(1, *arguments)
