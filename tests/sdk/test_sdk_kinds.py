"""Each routing kind in the C++ SDK: the bits, the routing and the sentences of the Python engine."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import golden
import pytest
import sdk_build
from sdk_build import Runner, setting_fields
from test_sdk import assert_same_routing, python_engine

from vmoe_export import export_bundle
from vmoe_runtime import RoutingError

MODELS: dict[str, dict[str, Any]] = {
    "g7": {"capacity": [0.5, 1.0]},
    "g6": {},
    "g5": {"capacity": [1.05], "k": [1], "output": "members"},
    "g1": {"capacity": [0.3], "k": [1]},
}
"""Official models of experts choice, of Soft MoE, an ensemble (E3) and top-k, and how they are exported."""


@pytest.fixture
def runners(tmp_path: Path) -> Iterator[Any]:
    """Starts runners, on standard ops if no prefix is given, and ends them after the test."""
    started: list[Runner] = []

    def start(bundle: Path, prefix: Path | None = None) -> Runner:
        prefix = prefix or sdk_build.prefixes().standard_ops
        started.append(Runner(prefix, bundle, sdk_build.onnxruntime_library(), 1, tmp_path))
        return started[-1]

    yield start
    for runner in started:
        runner.close()


@functools.cache
def bundle_of(name: str) -> Path:
    path = sdk_build.scratch_folder() / f"{name}.vmoe"
    model, _, variant = name.partition(" ")
    stored = golden.settings(model)
    size = tuple(stored["image_size"])
    checkpoint = golden.FOLDER / model
    if variant == "with fewer experts":
        checkpoint = golden.without_experts(model, path.with_suffix(".safetensors"))
    options = MODELS[model] | ({"merge": 2} if variant == "that merges" else {})
    export_bundle(checkpoint, path, config=stored["model"], image_size=size, validate=False, **options)
    return path


@pytest.mark.parametrize("ops", ["standard ops", "vmoe op library"])
@pytest.mark.parametrize(
    ("model", "setting"),
    [
        ("g7", {}),
        ("g7", {"profile": "c1"}),
        ("g7", {"capacity": 2.0}),
        ("g6", {}),
        ("g5", {}),
        ("g5", {"capacity": 0.5, "k": 2, "bpr": False}),
        ("g7 with fewer experts", {}),
        ("g6 with fewer experts", {}),
        ("g5 with fewer experts", {"capacity": 0.5, "k": 2}),
        ("g1 with fewer experts", {}),
        ("g1 with fewer experts", {"capacity": 7.5, "k": 2, "bpr": False}),
        ("g1 with fewer experts", {"pool": True, "max_experts": 7}),
        ("g1 that merges", {}),
        ("g1 that merges", {"merge": 0}),
        ("g6 that merges", {"merge": 3}),
        ("g6 that merges", {"merge": 0}),
        ("g7 that merges", {"profile": "c1.0-r4"}),
    ],
    ids=str,
)
def test_each_kind_answers_and_routes_with_the_bits_of_the_python_engine(
    model: str, setting: dict[str, Any], ops: str, runners: Any
) -> None:
    prefix = sdk_build.prefixes().all.get(ops)
    if prefix is None:
        pytest.skip("the op library was not built here")
    runner, engine = runners(bundle_of(model), prefix), python_engine(bundle_of(model), prefix)
    images = golden.arrays(model.partition(" ")[0])["images"][:4]
    assert runner.logits(images, *setting_fields(**setting)).tobytes() == engine(images, **setting).tobytes()
    expected, found = engine.routing(images, **setting), runner.routing(images, *setting_fields(**setting))
    assert list(found) == list(expected)
    for layer, routing in found.items():
        assert_same_routing(routing, expected[layer])


def test_on_standard_ops_only_a_bundle_with_the_graph_for_it_merges(runners: Any) -> None:
    prefix = sdk_build.prefixes().all["standard ops"]
    runner, engine = runners(bundle_of("g1"), prefix), python_engine(bundle_of("g1"), prefix)
    images = golden.arrays("g1")["images"][:4]
    with pytest.raises(RoutingError) as expected:
        engine(images, merge=3)
    with pytest.raises(AssertionError) as refused:
        runner.logits(images, *setting_fields(merge=3))
    assert refused.value.args == (["3", str(expected.value)],)


@pytest.mark.parametrize("model", [*MODELS, "g1 with fewer experts", "g5 with fewer experts"])
@pytest.mark.parametrize(
    "setting",
    [
        {"k": 1},
        {"k": 9, "bpr": True},
        {"capacity": 0.5},
        {"capacity": 99.0},
        {"capacity": float("nan")},
        {"pool": True},
        {"pool": False, "max_experts": 4},
        {"max_experts": 0},
        {"profile": "c1.0"},
        {"profile": "c0.5-k1"},
        {"profile": "c0.5-k1-pool"},
        {"profile": "c1.0-m2"},
        {"merge": -1},
        {"merge": 70_000},
        {"profile": "r8"},
        {"profile": "large"},
        {"profile": "c1.0", "k": 1},
    ],
    ids=str,
)
def test_each_kind_takes_and_refuses_settings_as_the_python_engine_does(
    model: str, setting: dict[str, Any], runners: Any
) -> None:
    prefix = sdk_build.prefixes().standard_ops
    engine = python_engine(bundle_of(model), prefix)
    runner = runners(bundle_of(model))
    try:
        expected = engine.setting(**setting)
    except RoutingError as error:
        with pytest.raises(AssertionError) as refused:
            runner.ask("setting", *setting_fields(**setting))
        assert refused.value.args == (["3", str(error)],)
    else:
        assert expected is not None
        assert runner.ask("setting", *setting_fields(**setting))[0].split(" ")[0] == expected.name


def test_a_soft_moe_has_neither_profiles_nor_a_setting(runners: Any) -> None:
    runner = runners(bundle_of("g6"))
    assert runner.ask("profiles") == []
    assert "routing_kind=3" in runner.ask("info")
    with pytest.raises(AssertionError, match="Soft MoE has nothing to set: it has no profile"):
        runner.ask("setting", *setting_fields())
