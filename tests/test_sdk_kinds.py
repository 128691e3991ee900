"""Experts choice and Soft MoE in the C++ SDK: the bits, the routing and the sentences of the Python engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import golden
import numpy as np
import pytest
import sdk_build
from sdk_build import Runner, setting_fields

from vmoe_export import export_bundle
from vmoe_runtime import Engine, RoutingError
from vmoe_runtime.op_library import find_library

FIELDS = ("kept", "weight", "expert", "dispatch", "combine")
KINDS = {"g7": 2, "g6": 3}
"""vmoe_routing_kind by golden model."""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("kinds")
    for model in KINDS:
        stored = golden.settings(model)
        options: dict[str, Any] = {"config": stored["model"], "image_size": tuple(stored["image_size"])}
        export_bundle(golden.FOLDER / model, folder / model, validate=False, **options)
    return {model: folder / model for model in KINDS}


@pytest.fixture
def runners(tmp_path: Path) -> Iterator[Any]:
    """Starts runners with the op library, and ends them after the test."""
    prefix = sdk_build.prefixes().all.get("vmoe op library")
    if prefix is None or find_library() is None:
        pytest.skip("the op library was not built here")
    started: list[Runner] = []

    def start(bundle: Path) -> Runner:
        started.append(Runner(prefix, bundle, sdk_build.onnxruntime_library(), 1, tmp_path))
        return started[-1]

    yield start
    for runner in started:
        runner.close()


@pytest.mark.parametrize(("model", "settings"), [("g7", [{}, {"profile": "c0.5"}, {"capacity": 1.7}]), ("g6", [{}])])
def test_answers_and_routing_are_those_of_the_python_engine(
    bundles: dict[str, Path], runners: Any, model: str, settings: list[dict[str, Any]]
) -> None:
    images = golden.arrays(model)["images"][:4]
    runner = runners(bundles[model])
    with Engine.load(bundles[model], backend="onnxruntime", threads=1) as engine:
        for setting in settings:
            fields = setting_fields(**setting)
            assert runner.logits(images, *fields).tobytes() == engine(images, **setting).tobytes()
            found, expected = runner.routing(images, *fields), engine.routing(images, **setting)
            assert list(found) == list(expected)
            for layer, routing in found.items():
                assert routing.kind == KINDS[model]
                assert routing.slot is None
                for name in FIELDS:
                    mine, theirs = getattr(routing, name), getattr(expected[layer], name)
                    assert (mine is None) == (theirs is None), name
                    if mine is not None:
                        assert mine.tobytes() == theirs.tobytes() and mine.shape == theirs.shape, name
                assert routing.patch_mask is not None
                np.testing.assert_array_equal(routing.patch_mask, expected[layer].patch_mask())
    information = dict(field.split("=", 1) for field in runner.ask("info"))
    assert information["routing_kind"] == str(KINDS[model])
    assert len(runner.ask("profiles")) == (1 if model == "g7" else 0)


@pytest.mark.parametrize(
    ("model", "setting"),
    [
        ("g6", {"capacity": 0.5}),
        ("g6", {"k": 1, "max_experts": 2}),
        ("g6", {"capacity": 0.5, "k": 1, "bpr": True}),
        ("g7", {"k": 1, "bpr": True}),
        ("g7", {"pool": True}),
        ("g7", {"capacity": 7.0}),
    ],
)
def test_what_a_kind_does_not_have_is_refused_in_the_words_of_the_python_engine(
    bundles: dict[str, Path], runners: Any, model: str, setting: dict[str, Any]
) -> None:
    with Engine.load(bundles[model], backend="onnxruntime") as engine, pytest.raises(RoutingError) as python:
        engine.setting(**setting)
    with pytest.raises(AssertionError) as sdk:
        runners(bundles[model]).ask("setting", *setting_fields(**setting))
    assert str(python.value) in str(sdk.value).replace("\\'", "'")
