"""Tests for expert choice and Soft MoE, from checkpoint to result.

They check the settings, outputs and guarantees of both kinds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import golden
import numpy as np
import pytest
from damaged_files import refusal

from vmoe_export import export_bundle
from vmoe_runtime import Engine, RoutingError

BACKENDS = pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
CHOICE, SOFT = "g7", "g6"
MODELS = {
    f"{model}-{precision}": (model, precision) for model in (CHOICE, SOFT) for precision in ("fp32", "bf16", "int8", "int4")
}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("kinds")
    for name, (model, precision) in MODELS.items():
        given: dict[str, Any] = {"capacity": [0.5, 1.0]} if model == CHOICE else {}
        golden.bundle(model, folder / name, precision=precision, **given)
    return {name: folder / name for name in MODELS}


def images(model: str) -> np.ndarray:
    return golden.arrays(model)["images"][:4]


def golden_case(model: str, **fields: object) -> golden.Case:
    cases = [case for case in golden.kind_cases() if case.model == model]
    return next(case for case in cases if fields.items() <= case.raw.items())


@BACKENDS
def test_each_ratio_of_experts_choice_gives_the_official_answer(bundles: dict[str, Path], backend: str) -> None:
    with Engine.load(bundles[f"{CHOICE}-fp32"], backend=backend) as engine:
        assert list(engine.profiles) == ["c0.5", "c1.0"]
        for ratio in (0.5, 1.0, 2.0):
            case = golden_case(
                CHOICE, batch=4, group_size=25, capacity_factor=ratio, capacity_ceil_or_round="round", capacity_multiple_of=1
            )
            np.testing.assert_allclose(engine(images(CHOICE), capacity=ratio), case.logits, rtol=0, atol=1e-5)
            routing = engine.routing(images(CHOICE), f"c{ratio}")
            for (gates, kept), layer in zip(case.layers(), routing.values(), strict=True):
                assert (layer.kind, layer.expert, layer.dispatch) == ("experts-choice", None, None)
                np.testing.assert_array_equal(layer.kept, kept)
                np.testing.assert_allclose(layer.weight, gates, rtol=0, atol=1e-5)
                np.testing.assert_array_equal(layer.patch_mask(), kept.any(axis=2).reshape(4, 5, 5))


@BACKENDS
def test_soft_moe_gives_the_official_answer_and_its_shares(bundles: dict[str, Path], backend: str) -> None:
    case = golden_case(SOFT, batch=4)
    with Engine.load(bundles[f"{SOFT}-fp32"], backend=backend) as engine:
        assert not engine.profiles
        assert np.abs(engine(images(SOFT)) - case.logits).mean() <= 1.5e-4
        routing = engine.routing(images(SOFT))
        found = [shares for layer in routing.values() for shares in (layer.dispatch, layer.combine)]
        for shares, official in zip(found, case.shares(), strict=True):
            assert shares is not None
            np.testing.assert_allclose(shares, official, rtol=0, atol=1e-4)
        assert all(layer.patch_mask().all() and layer.kept is None for layer in routing.values())


@pytest.mark.sample(4)
@BACKENDS
@pytest.mark.parametrize("name", MODELS)
def test_an_image_alone_gives_the_same_bits_as_among_others(bundles: dict[str, Path], name: str, backend: str) -> None:
    given = images(MODELS[name][0])
    with Engine.load(bundles[name], backend=backend, threads=2) as engine:
        together = engine(given)
        assert len(np.unique(together, axis=0)) == 4
        for i in range(4):
            np.testing.assert_array_equal(engine(given[i : i + 1]), together[i : i + 1])
        np.testing.assert_array_equal(engine(given[[3, 0, 3]]), together[[3, 0, 3]])


def test_a_bundle_of_a_kind_is_a_checkpoint_of_that_kind(bundles: dict[str, Path], tmp_path: Path) -> None:
    for model in (CHOICE, SOFT):
        source, again = bundles[f"{model}-fp32"], tmp_path / f"{model}.vmoe"
        export_bundle(source, again, precision="int8", validate=False)
        for file in ("model.onnx", "weights.safetensors"):
            assert (again / file).read_bytes() == (bundles[f"{model}-int8"] / file).read_bytes(), model


@pytest.mark.parametrize(
    ("model", "setting", "words"),
    [
        (SOFT, {"k": 1}, ("Soft MoE has nothing to set", "k")),
        (SOFT, {"capacity": 0.5}, ("Soft MoE has nothing to set", "capacity")),
        (SOFT, {"profile": "c1.0"}, ("c1.0",)),
        (CHOICE, {"k": 1, "bpr": True}, ("nothing to set but the capacity ratio", "k or bpr")),
        (CHOICE, {"pool": True}, ("nothing to set but the capacity ratio", "pool")),
        (CHOICE, {"capacity": 7.0}, ("7", "6")),
        (CHOICE, {"profile": "c0.5-k1"}, ("c0.5-k1",)),
    ],
)
def test_what_a_kind_does_not_have_is_refused_at_a_call(
    bundles: dict[str, Path], model: str, setting: dict[str, Any], words: tuple[str, ...]
) -> None:
    with Engine.load(bundles[f"{model}-fp32"]) as engine, refusal(RoutingError, *words):
        engine(images(model), **setting)
