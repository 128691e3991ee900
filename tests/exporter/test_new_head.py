"""Tests for `vmoe export --head`, which replaces a model's head by a head from a user's file."""

from __future__ import annotations

import json
import os
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from command_runs import Refuse, npz
from damaged_files import SPARSE
from safetensors.numpy import load_file, save_file

from vmoe_export import ExportOptions, OptionError, export_bundle
from vmoe_runtime import Engine
from vmoe_runtime.bundle.reader import Bundle

CLASSES = 3
Head = dict[str, np.ndarray]


def random_head(features: int, dtype: Any = np.float32, prefix: str = "") -> Head:
    values = np.random.default_rng(1).normal(size=(features + 1, CLASSES))
    return {f"{prefix}kernel": values[1:].astype(dtype), f"{prefix}bias": values[0].astype(dtype)}


def weights(bundle: Path) -> Head:
    return load_file(bundle / "weights.safetensors")


@pytest.fixture(scope="module")
def features_bundle(mnist_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("features") / "features.vmoe"
    export_bundle(mnist_checkpoint, target, capacity=[0.3, 1.05], k=[1], output="features", validate=False)
    return target


@pytest.mark.parametrize("source", ["mnist_checkpoint", "mnist_image_bundle", "features_bundle"])
def test_logits_are_those_of_the_new_head_and_the_trunk_stays_byte_for_byte(
    source: str,
    features_bundle: Path,
    mnist_image_bundle: Path,
    mnist_images: dict[str, np.ndarray],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    head = random_head(64)
    saved = npz(tmp_path / "head.npz", **head, class_names=np.array(["cat", "dog", "fox"]))
    checkpoint = request.getfixturevalue(source)
    bundle = export_bundle(checkpoint, tmp_path / "x.vmoe", head=saved, capacity=[0.3], k=[1]).path
    ours, trunk = weights(bundle), weights(mnist_image_bundle)
    assert ours.keys() == trunk.keys()
    different = {name for name in ours if ours[name].tobytes() != trunk[name].tobytes()}
    assert different == {"head/kernel", "head/bias"}
    pictures = mnist_images["images"][:8]
    with Engine.load(bundle) as engine, Engine.load(features_bundle) as features:
        assert engine.class_names == ("cat", "dog", "fox")
        for capacity in (0.3, 1.05):
            expected = features(pictures, capacity=capacity) @ head["kernel"] + head["bias"]
            np.testing.assert_allclose(engine(pictures, capacity=capacity), expected, atol=1e-4)


def test_the_old_names_and_the_old_number_of_classes_are_not_those_of_the_new_head(
    mnist_checkpoint: Path, tmp_path: Path
) -> None:
    named, config = tmp_path / "named.vmoe", {"num_classes": 10}
    export_bundle(mnist_checkpoint, named, class_names=list("0123456789"), validate=False)
    head = npz(tmp_path / "head.npz", **random_head(64))
    for source, options in ((named, {}), (mnist_checkpoint, {"config": config})):
        bundle = export_bundle(source, tmp_path / "x.vmoe", head=head, validate=False, force=True, **options)
        manifest = Bundle.open(bundle.path).manifest
        assert (manifest.class_names, manifest.outputs) == (None, CLASSES)
    given = export_bundle(named, tmp_path / "y.vmoe", head=head, validate=False, class_names=["a", "b", "c"])
    assert Bundle.open(given.path).manifest.class_names == ("a", "b", "c")
    with pytest.raises(OptionError, match="0 class names, but the model has 3 outputs"):
        export_bundle(named, tmp_path / "z.vmoe", head=head, class_names=[])
    sources = [json.loads((path / "manifest.json").read_text())["source"]["sha256"] for path in (named, bundle.path)]
    assert sources[0] != sources[1]  # the digest of the export's source also covers the head


@pytest.mark.parametrize("separator", "/.")
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64], ids=["float16", "bfloat16", "float64"])
def test_a_head_may_be_of_any_float_and_under_its_official_names(dtype: Any, separator: str, tmp_path: Path) -> None:
    head = random_head(40, dtype, f"head{separator}")
    save_file({**head, "step": np.zeros(1)}, tmp_path / "head.safetensors")
    bundle = export_bundle(SPARSE, tmp_path / "x.vmoe", head=tmp_path / "head.safetensors", validate=False).path
    for name, values in head.items():
        np.testing.assert_array_equal(weights(bundle)[name.replace(".", "/")], values.astype(np.float32))


def good(**changes: Any) -> Head:
    return {name: array for name, array in {**random_head(40), **changes}.items() if array is not None}


WRONG: dict[str, tuple[Head, str]] = {
    "no kernel": (
        good(kernel=None, weight=np.zeros((CLASSES, 40), np.float32)),
        "no array 'kernel'; expected a .safetensors",
    ),
    "no bias": (good(bias=None), "no array 'bias'"),
    "half of it under the official name": (good(**{"head/kernel": np.zeros((40, 3))}), "no array 'head/bias'"),
    "a kernel for other features": (random_head(64), "takes 64 features, and the model has 40"),
    "a kernel the other way round": (good(kernel=np.zeros((CLASSES, 40))), "kernel has shape (3, 40)"),
    "a flat kernel": (good(kernel=np.zeros(40)), "kernel has shape (40,)"),
    "no classes": (good(kernel=np.zeros((40, 0)), bias=np.zeros(0)), "kernel has shape (40, 0)"),
    "integers": (good(kernel=np.zeros((40, 3), np.int32)), "kernel is int32"),
    "NaN": (good(bias=np.full(3, np.nan)), "bias holds NaN"),
    "more than float32 holds": (good(bias=np.full(3, 1e300)), "bias holds NaN or infinite"),
    "names of other classes": (good(class_names=np.array(["a"])), "class_names is <U1[1]"),
    "objects": (good(kernel=np.array([{}])), "Python objects"),
    "features that are no JSON": (good(fitted_to=np.array("those of yesterday")), "fitted_to is not a JSON object"),
    "features as numbers": (good(fitted_to=np.zeros(2)), "fitted_to is not a JSON object"),
}


@pytest.mark.parametrize(("head", "name"), WRONG.values(), ids=WRONG)
def test_a_wrong_head_is_refused_in_one_sentence(head: Head, name: str, tmp_path: Path, refuse_export: Refuse) -> None:
    refuse_export(SPARSE, "--head", npz(tmp_path / "head.npz", **head), names=["--head", "head.npz", name], code=2)


@pytest.mark.parametrize("name", ["none.npz", "text.npz", "text.safetensors", "folder", "pipe.npz", "float8.safetensors"])
def test_a_file_that_is_no_head_is_refused_in_one_sentence(name: str, tmp_path: Path, refuse_export: Refuse) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe.npz")
    for text in ("text.npz", "text.safetensors"):
        (tmp_path / text).write_text("no head at all")
    save_file(random_head(40, ml_dtypes.float8_e4m3fn), tmp_path / "float8.safetensors")
    refuse_export(SPARSE, "--head", tmp_path / name, names=["--head", name], code=2)


@pytest.mark.parametrize(
    ("features", "classes", "message"),
    [
        (1 << 20, 64, "takes 1048576 features, and the model has 40"),
        (40, 1 << 20, "too large for a head in a file of this size"),
    ],
)
def test_what_does_not_fit_is_refused_before_it_is_unpacked(
    features: int, classes: int, message: str, tmp_path: Path, refuse_export: Refuse
) -> None:
    path = tmp_path / "head.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, shape in (("kernel", (features, classes)), ("bias", (classes,))):
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
                # The content is shorter than the shape in the header implies. A file that really had this shape would
                # still be within the limit on the total size of unpacked files.
                file.write(bytes(4096))
        archive.writestr("filler", os.urandom(1 << 20 if classes > 64 else 4 << 20))
    tracemalloc.start()
    refuse_export(SPARSE, "--head", path, names=["--head", "head.npz", message], code=2)
    assert tracemalloc.get_traced_memory()[1] < 32 << 20
    tracemalloc.stop()


def test_features_have_no_head() -> None:
    with pytest.raises(OptionError, match="omit one"):
        ExportOptions(output="features", head="head.npz")
