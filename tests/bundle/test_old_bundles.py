"""Bundles as earlier versions of vmoe-export wrote them load and answer as they did then.

`v1-PRECISION` are of format version 1, by vmoe-export 0.1; `v2-PRECISION` are the first of format version 2. `v1.npz` and
`v2.npz` hold `images` f32[6,12,12,3], and `PRECISION/PROFILE/logits` f32[6,7] and `.../slot` i32[6,10,K] of stock ONNX
Runtime. Those of format version 3 are `v2-fp32` once more: `v3-fp32` with pools and limits of experts, and `v3-ensemble` as
an E3 of two members, whose logits are f32[6,2,7]. Instead of slots `v3.npz` has `.../placed` i32[6,S,K], the expert that a
pair got a place at, -1 where it was dropped. `v3-choice` is `v2-fp32` with experts choice, and `v3-soft` a Soft MoE with its
other tensors; their routing is stored as `Engine.routing` names it. `v2-dense` has no routing, takes uint8 and gives
features: `dense/images` u8[6,12,12,3], `dense/features` f32[6,24].
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import sdk_build
from sdk_build import Runner, setting_fields

from vmoe_runtime import Engine
from vmoe_runtime.backends.onnxruntime_cpu import OnnxRuntimeBackend
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.routing import kept_pairs, layer_outputs
from vmoe_runtime.routing_kinds import LAYER_OUTPUTS

FOLDER = Path(__file__).parents[1] / "data" / "bundles"


class Old(NamedTuple):
    """A bundle: what its precision is called now, and how far answers of another kernel or machine may be."""

    precision: str
    code: int  # vmoe_precision
    atol: float


OLD = {
    "v1-fp32": Old("fp32", 1, 1e-5),
    "v1-bf16": Old("bf16-experts", 4, 1e-5),
    "v2-fp32": Old("fp32", 1, 1e-5),
    # A sum in another order may round to the other of two neighbours, 1/256 or a step of int8 apart.
    "v2-bf16": Old("bf16", 2, 1e-2),
    "v2-int8": Old("int8", 3, 1e-2),
    "v3-fp32": Old("fp32", 1, 1e-5),
    "v3-ensemble": Old("fp32", 1, 1e-5),
}


@functools.cache
def data(version: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{version}.npz") as stored:
        return {name: stored[name] for name in stored.files}


@functools.cache
def answers(name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Of a bundle by profile its logits, and the expert that each pair got a place at, -1 where it was dropped."""
    version, precision = name.split("-")
    stored = data(version)
    found = {}
    for profile in [key.split("/")[1] for key in stored if key.startswith(f"{precision}/") and key.endswith("/logits")]:
        what = f"{precision}/{profile}"
        if version == "v3":
            placed = stored[f"{what}/placed"]
        else:
            setting = Bundle.open(FOLDER / name).manifest.profiles[profile]
            (placed,) = kept_pairs(["slot"], [stored[f"{what}/slot"]], setting)
        found[profile] = stored[f"{what}/logits"], placed
    return found


def images(name: str) -> np.ndarray:
    return data(name.split("-", maxsplit=1)[0])["images"]


@functools.cache
def engine_of(name: str, backend: str) -> Engine:
    return Engine.load(FOLDER / name, backend=backend, threads=1)


@functools.cache
def stock_of(name: str, graph: str) -> OnnxRuntimeBackend:
    return OnnxRuntimeBackend(FOLDER / name / graph, 1)


EVERY_SETTING = [pytest.param(name, p, id=f"{name}-{p}") for name in OLD for p in answers(name)]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("name", "profile"), EVERY_SETTING)
def test_an_engine_answers_as_it_did(name: str, profile: str, backend: str) -> None:
    logits, placed = answers(name)[profile]
    engine = engine_of(name, backend)
    np.testing.assert_allclose(engine(images(name), profile), logits, rtol=0, atol=OLD[name].atol)
    (routing,) = engine.routing(images(name), profile).values()
    np.testing.assert_array_equal(routing.kept, placed >= 0)
    np.testing.assert_array_equal(np.where(routing.kept, routing.expert, -1), placed)


@pytest.mark.parametrize("graph", ["model.onnx", "model.inlined.onnx"])
@pytest.mark.parametrize(("name", "profile"), EVERY_SETTING)
def test_a_stock_runtime_answers_as_it_did(name: str, profile: str, graph: str) -> None:
    manifest = engine_of(name, "onnxruntime").manifest
    setting, names = manifest.profiles[profile], list(layer_outputs(manifest))
    outputs = [manifest.output, *(f"encoderblock_1/{what}" for what in names)]
    feeds = {"image": images(name), **setting.inputs()}
    logits, *routes = stock_of(name, graph).run(feeds, outputs)
    np.testing.assert_allclose(logits, answers(name)[profile][0], rtol=0, atol=OLD[name].atol)
    np.testing.assert_array_equal(kept_pairs(names, routes, setting)[0], answers(name)[profile][1])


@pytest.mark.parametrize("name", OLD)
def test_the_precision_is_what_it_was(name: str) -> None:
    manifest = Bundle.open(FOLDER / name).manifest
    assert (manifest.precision, list(manifest.profiles)) == (OLD[name].precision, list(answers(name)))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_engine_of_a_dense_model_answers_as_it_did(backend: str) -> None:
    with Engine.load(FOLDER / "v2-dense", backend=backend, threads=1) as engine:
        np.testing.assert_allclose(engine(data("v2")["dense/images"]), data("v2")["dense/features"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("name", "profile"), [("v3-choice", "c0.5"), ("v3-choice", "c1.0"), ("v3-soft", None)])
def test_an_engine_of_another_kind_answers_as_it_did(name: str, profile: str | None, backend: str) -> None:
    stored = data("v3")
    what = name.removeprefix("v3-") + (f"/{profile}" if profile else "")
    engine = engine_of(name, backend)
    np.testing.assert_allclose(engine(stored["images"], profile), stored[f"{what}/logits"], rtol=0, atol=1e-5)
    (routing,) = engine.routing(stored["images"], profile).values()
    for field in LAYER_OUTPUTS[routing.kind]:
        np.testing.assert_allclose(getattr(routing, field), stored[f"{what}/{field}"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("ops", ["standard ops", "vmoe op library"])
@pytest.mark.parametrize("name", OLD)
def test_the_sdk_answers_as_it_did(name: str, ops: str, tmp_path: Path) -> None:
    prefix = sdk_build.prefixes().all.get(ops)
    if prefix is None:
        pytest.skip("the op library was not built here")
    runner = Runner(prefix, FOLDER / name, sdk_build.onnxruntime_library(), 1, tmp_path)
    assert f"precision={OLD[name].code}" in runner.ask("info")
    for profile, (expected, placed) in answers(name).items():
        logits = runner.logits(images(name), *setting_fields(profile))
        np.testing.assert_allclose(logits, expected.reshape(len(expected), -1), rtol=0, atol=OLD[name].atol)
        (routing,) = runner.routing(images(name), *setting_fields(profile)).values()
        np.testing.assert_array_equal(routing.kept, placed >= 0)
        np.testing.assert_array_equal(np.where(routing.kept, routing.expert, -1), placed)
    runner.close()


@pytest.mark.parametrize(("version", "least"), [("v1", 1e-4), ("v2", 1e-2)])
def test_the_answers_tell_the_precisions_and_profiles_apart(version: str, least: float) -> None:
    logits = [logits for name in OLD if name.startswith(version) for logits, _ in answers(name).values()]
    for i, one in enumerate(logits):
        assert all(np.abs(one - other).max() > least for other in logits[:i])
