"""Check that a call that an engine can't carry out raises a specific exception with one sentence.

The runtimes must print nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from damaged_files import GRAPH_FAULTS, Edit, copied_bundle, edited_graph, refusal, with_nan_weights

from vmoe_runtime import BackendError, Engine, ImageError, RoutingError, op_library
from vmoe_runtime.backends import prepare_backend
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.errors import UsageError

BATCH = np.zeros((16, 28, 28, 1), np.float32)  # the bundle routes images in groups of 16


class Runner(NamedTuple):
    """A backend and the graph that it loads."""

    backend: str
    graph: str


@pytest.fixture(params=["op library", "standard ops", "openvino"])
def runner(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Runner:
    """Return a backend and its graph. Tests with this fixture run once for each way to run a bundle on a CPU."""
    if request.param == "op library":
        if op_library.find_library() is None:
            pytest.skip("this installation has no op library")
        return Runner("onnxruntime", "model.onnx")
    monkeypatch.setattr(op_library, "find_library", lambda: None)
    return Runner("openvino" if request.param == "openvino" else "onnxruntime", "model.inlined.onnx")


@pytest.fixture(scope="module")
def engine(mnist_bundle: Path) -> Iterator[Engine]:
    with Engine.load(mnist_bundle) as loaded:
        yield loaded


SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "k of 0": ({"k": 0}, "k must be"),
    "negative k": ({"k": -1}, "k must be"),
    "k above the number of experts": ({"k": 9}, "k must be"),
    "k of 1e30": ({"k": 10**30}, "k must be"),
    "k of more digits than Python writes": ({"k": 10**5000}, "int that can't be shown"),
    "capacity of as many": ({"capacity": 10**5000}, "int that can't be shown"),
    "fractional k": ({"k": 1.5}, "k must be a whole number"),
    "k as text": ({"k": "two"}, "'two'"),
    "capacity of 0": ({"capacity": 0}, "capacity"),
    "capacity below 0": ({"capacity": -0.3}, "capacity"),
    "capacity NaN": ({"capacity": float("nan")}, "capacity"),
    "infinite capacity": ({"capacity": float("inf")}, "capacity"),
    "capacity above the number of experts": ({"capacity": 8.5}, "capacity"),
    "capacity as text": ({"capacity": "many"}, "'many'"),
    "capacity as a list": ({"capacity": [0.1, 0.2]}, "[0.1, 0.2]"),
    "bpr as text": ({"bpr": "no"}, "'no'"),
    "unknown profile": ({"profile": "fastest"}, "'fastest'"),
    "profile that is a number": ({"profile": 3}, "not by 3"),
    "profile that is a list": ({"profile": ["c0.1-k1"]}, "['c0.1-k1']"),
    "profile of capacity 0": ({"profile": "c0-k1"}, "capacity"),
    "profile of k 9": ({"profile": "c0.3-k9"}, "k must be"),
    "capacity that overflows": ({"capacity": 1e308}, "capacity"),
    "bpr as an array": ({"bpr": np.array([1, 0])}, "bpr"),
    "bpr as a tensor": ({"bpr": torch.tensor([True, False])}, "bpr"),
    "bpr as a matrix": ({"bpr": np.array([[1], [0]])}, "bpr"),
    "k as an array": ({"k": np.array([1, 2])}, "k must be"),
    "k as a matrix": ({"k": np.zeros((3, 3))}, "k must be"),
    "capacity as an array": ({"capacity": np.array([0.3, 0.4])}, "capacity"),
    "capacity as a matrix": ({"capacity": np.zeros((9, 9))}, "capacity"),
    "profile as an array": ({"profile": np.array(["a", "b"])}, "array"),
    "profile whose capacity overflows": ({"profile": "c1e308-k1"}, "capacity"),
}


@pytest.mark.parametrize(("setting", "name"), SETTINGS.values(), ids=SETTINGS)
def test_a_call_refuses_the_setting(engine: Engine, setting: dict[str, Any], name: str) -> None:
    with refusal(RoutingError, name):
        engine(BATCH, **setting)
    with pytest.raises(RoutingError):
        engine.routing(BATCH, **setting)


def test_a_call_refuses_a_batch_that_is_no_multiple_of_the_group(engine: Engine) -> None:
    with refusal(ImageError, "multiple of 16"):
        engine(BATCH[:15])


def test_a_mistyped_keyword_is_a_type_error_that_names_the_nearest(engine: Engine) -> None:
    with pytest.raises(TypeError, match=r"^a setting has no 'capcity'; did you mean 'capacity'\?$"):
        engine(BATCH, capcity=0.5)


def test_a_closed_engine_says_so(mnist_bundle: Path) -> None:
    engine = Engine.load(mnist_bundle)
    engine.close()
    for use in (engine, engine.routing):
        with pytest.raises(BackendError, match=r"^the engine is closed$"):
            use(BATCH)


LOADING: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "unknown backend": ({"backend": "abacus"}, BackendError, "'abacus'"),
    "no threads": ({"threads": 0}, BackendError, "threads"),
    "a million threads": ({"threads": 10**6}, BackendError, "threads"),
    "a thousand threads": ({"threads": 1024}, BackendError, "on this machine"),
    "threads as text": ({"threads": "all"}, BackendError, "'all'"),
    "threads as a flag": ({"threads": True}, BackendError, "not True"),
    "threads as a fraction": ({"threads": np.float64(1)}, BackendError, "threads must be a whole number"),
    "verify as text": ({"verify": "false"}, UsageError, "verify must be True or False, not 'false'"),
    "spin as text": ({"spin": "no"}, UsageError, "spin must be True or False, not 'no'"),
    "exif as text": ({"exif": "no"}, UsageError, "exif must be True or False, not 'no'"),
    "a list of backends": ({"backend": ["onnxruntime"]}, BackendError, "['onnxruntime'] is not known"),
    "unknown profile": ({"profile": "fastest"}, RoutingError, "'fastest'"),
    "profile of too many experts": ({"profile": "c0.3-k9"}, RoutingError, "k must be"),
}


@pytest.mark.parametrize(("options", "error", "name"), LOADING.values(), ids=LOADING)
def test_loading_refuses(options: dict[str, Any], error: type[Exception], name: str, mnist_bundle: Path) -> None:
    with refusal(error, name):
        Engine.load(mnist_bundle, **options)


@pytest.mark.parametrize("edit", GRAPH_FAULTS, ids=lambda edit: edit.__name__.replace("_", " "))
def test_a_graph_that_cannot_be_loaded_is_named_and_the_runtime_prints_nothing(
    edit: Edit, runner: Runner, mnist_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    graph = edited_graph(mnist_bundle, edit, runner.graph)
    bundle = copied_bundle(mnist_bundle, tmp_path / "x.vmoe", files={runner.graph: graph})
    with refusal(BackendError, f"x.vmoe/{runner.graph}"):
        Engine.load(bundle, backend=runner.backend)
    assert capfd.readouterr() == ("", "")


def test_a_path_that_onnxruntime_cannot_be_told_is_named(mnist_bundle: Path, tmp_path: Path) -> None:
    bundle = copied_bundle(mnist_bundle, tmp_path / os.fsdecode(b"odd\xff.vmoe"))
    with pytest.raises(BackendError, match="is not text in UTF-8, which ONNX Runtime needs"):
        Engine.load(bundle, backend="onnxruntime")


def test_weights_that_make_no_finite_answer_are_told_from_images_that_do(tmp_path: Path, mnist_image_bundle: Path) -> None:
    bundle = with_nan_weights(mnist_image_bundle, tmp_path / "x.vmoe")
    images = np.zeros((1, 28, 28, 1), np.float32)
    with Engine.load(bundle) as engine, refusal(BackendError, "logits of finite images are not all finite", "damaged"):
        engine(images)
    images[0, 3, 3] = np.nan
    with Engine.load(bundle) as engine, pytest.warns(UserWarning, match="NaN"):
        assert np.isnan(engine(images)).any()


def test_an_openvino_that_computes_other_numbers_is_refused(
    monkeypatch: pytest.MonkeyPatch, mnist_image_bundle: Path
) -> None:
    monkeypatch.setattr("openvino.__version__", "2024.6.0-17404-4c0f47d2335-releases/2024/6")
    with refusal(BackendError, "OpenVINO 2024.6.0", "is too old; run pip install 'openvino>="):
        Engine.load(mnist_image_bundle, backend="openvino")


def test_openvino_refuses_groups_that_overflow_its_integers(mnist_bundle: Path) -> None:
    bundle = Bundle.open(mnist_bundle)
    rules = replace(bundle.manifest.rules, group_tokens=46_341)
    with pytest.raises(BackendError, match="46340 tokens"):
        prepare_backend("openvino", replace(bundle, manifest=replace(bundle.manifest, rules=rules)), None)
