"""Check that, for each routing kind, the C++ SDK gives the same bits, routing and messages as the Python engine."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import golden
import pytest
import sdk_build
from bundle_changes import adds, graph
from damaged_files import copied_bundle
from sdk_build import setting_fields
from test_sdk import assert_same_routing, python_engine

from vmoe_runtime import BackendError, RoutingError

MODELS: dict[str, dict[str, Any]] = {
    "g7": {"capacity": [0.5, 1.0]},
    "g6": {},
    "g5": {"capacity": [1.05], "k": [1], "output": "members"},
    "g1": {"capacity": [0.3], "k": [1]},
    "g4": {},
}
"""Official models of expert choice, of Soft MoE, an ensemble (E3), top-k and a dense ViT, with their export options."""


@functools.cache
def bundle_of(name: str) -> Path:
    path = sdk_build.scratch_folder() / f"{name}.vmoe"
    model, _, variant = name.partition(" ")
    is_whole = variant != "with fewer experts"
    checkpoint = None if is_whole else golden.without_experts(model, path.with_suffix(".safetensors"))
    options = MODELS[model] | ({"merge": 2} if variant == "that merges" else {})
    return golden.bundle(model, path, checkpoint, **options)


@pytest.mark.sample(6)
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
        ("g4", {}),
    ],
    ids=str,
)
def test_each_kind_answers_and_routes_with_the_bits_of_the_python_engine(
    model: str, setting: dict[str, Any], prefix: Path, runners: Any
) -> None:
    runner, engine = runners(prefix, bundle_of(model)), python_engine(bundle_of(model), prefix)
    images = golden.arrays(model.partition(" ")[0])["images"][:4]
    assert runner.logits(images, **setting).tobytes() == engine(images, **setting).tobytes()
    assert [profile.partition(" ")[0] for profile in runner.ask("profiles")] == list(engine.profiles)
    expected, found = engine.routing(images, **setting), runner.routing(images, **setting)
    assert list(found) == list(expected)
    for layer, routing in found.items():
        assert_same_routing(routing, expected[layer])


@pytest.mark.parametrize("options", [{"output": "tokens", "layers": [0, 2]}, {"layers": [1]}, {"output": "tokens"}], ids=str)
def test_outputs_by_name_have_the_bits_of_the_python_engine(
    options: dict[str, Any], prefix: Path, runners: Any, tmp_path: Path
) -> None:
    path = sdk_build.scratch_folder() / f"outputs {options}.vmoe"
    bundle = path if path.exists() else golden.bundle("g1", path, **MODELS["g1"], **options)
    runner, images = runners(prefix, bundle), golden.arrays("g1")["images"][:3]
    expected = python_engine(bundle, prefix).outputs(images)
    found = runner.outputs(images)
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name].shape == values.shape and found[name].tobytes() == values.tobytes()
    assert runner.logits(images).tobytes() == next(iter(expected.values())).tobytes()
    with pytest.raises(AssertionError, match="nor where a bundle returns tokens"):
        runner.logits(images, merge=2)


def test_on_standard_ops_only_a_bundle_with_the_graph_for_it_merges(runners: Any) -> None:
    prefix = sdk_build.prefixes().standard_ops
    runner, engine = runners(prefix, bundle_of("g1")), python_engine(bundle_of("g1"), prefix)
    images = golden.arrays("g1")["images"][:4]
    with pytest.raises(RoutingError) as expected:
        engine(images, merge=3)
    with pytest.raises(AssertionError) as refused:
        runner.logits(images, merge=3)
    assert refused.value.args == (["3", str(expected.value)],)


@pytest.mark.parametrize("output", ["expert", "token"])
@pytest.mark.parametrize("number", [-100, 1_000_000])
def test_a_graph_that_names_what_is_not_there_is_refused(output: str, number: int, runners: Any, tmp_path: Path) -> None:
    bundle = copied_bundle(bundle_of("g1 that merges"), tmp_path / "x.vmoe")
    graph(adds(f"encoderblock_1/{output}", number))(bundle)
    prefix, images = sdk_build.prefixes().whole, golden.arrays("g1")["images"][:4]
    words = "outputs of encoderblock_1 .*name an expert or a token that isn't there"
    with pytest.raises(BackendError, match=words):
        python_engine(bundle, prefix).routing(images, merge=3)
    with pytest.raises(AssertionError, match=words):
        runners(prefix, bundle).routing(images, merge=3)


@pytest.mark.sample(12)
@pytest.mark.parametrize("model", [*MODELS, "g1 with fewer experts", "g5 with fewer experts"])
@pytest.mark.parametrize(
    "setting",
    [
        *({"capacity": ratio} for ratio in (0.0, -0.3, 0.5, 99.0, 1e308, math.inf, math.nan)),
        *({"k": k} for k in (0, 1, 2**63 - 1)),
        *({"max_experts": limit} for limit in (-1, 0)),
        *({"merge": count} for count in (-1, 70_000)),
        *({"profile": name} for name in ("c1.0", "c0.5-k1", "c0.5-k1-pool", "c1.0-m2", "r8", "large", "")),
        *({"profile": name} for name in ("c1e999-k1", "c1e-999-k1")),
        {"k": 9, "bpr": True},
        {"pool": True},
        {"pool": False, "max_experts": 4},
        {"profile": "c1.0", "k": 1},
    ],
    ids=str,
)
def test_each_kind_takes_and_refuses_settings_as_the_python_engine_does(
    model: str, setting: dict[str, Any], runners: Any
) -> None:
    prefix = sdk_build.prefixes().standard_ops
    engine = python_engine(bundle_of(model), prefix)
    runner = runners(prefix, bundle_of(model))
    try:
        expected = engine.setting(**setting)
    except RoutingError as error:
        with pytest.raises(AssertionError) as refused:
            runner.ask("setting", *setting_fields(**setting))
        assert refused.value.args == (["3", str(error)],)
    else:
        assert expected is not None
        assert runner.ask("setting", *setting_fields(**setting))[0].split(" ")[0] == expected.name


def test_a_soft_moe_has_no_setting(runners: Any) -> None:
    runner = runners(sdk_build.prefixes().standard_ops, bundle_of("g6"))
    assert runner.info()["routing_kind"] == "3"
    with pytest.raises(AssertionError, match="Soft MoE has nothing to set: it has no profile"):
        runner.ask("setting", *setting_fields())
