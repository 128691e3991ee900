"""Bundles of format version 1, as vmoe-export 0.1 wrote them, load and answer as they did then."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sdk_build
from sdk_build import Runner, setting_fields

from vmoe_runtime import Engine
from vmoe_runtime.backends.onnxruntime_cpu import OnnxRuntimeBackend
from vmoe_runtime.bundle import Bundle

FOLDER = Path(__file__).parent / "data" / "bundles"
PRECISIONS = ("fp32", "bf16")
"""What version 1 could say: float32, or expert weights in bfloat16."""
PROFILES = ("c0.3-k1", "c0.3-k2", "c1.05-k1", "c1.05-k2")
EVERY_SETTING = [pytest.param(p, profile, id=f"{p}-{profile}") for p in PRECISIONS for profile in PROFILES]
ATOL = 1e-5


@pytest.fixture(scope="module")
def answers() -> dict[str, np.ndarray]:
    """`images` f32[6,12,12,3], and `PRECISION/PROFILE/logits` f32[6,7] and `.../slot` i32[6,10,K] of stock ONNX Runtime."""
    with np.load(FOLDER / "v1.npz") as data:
        return {name: data[name] for name in data.files}


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("precision", "profile"), EVERY_SETTING)
def test_an_engine_answers_as_it_did(precision: str, profile: str, backend: str, answers: dict[str, np.ndarray]) -> None:
    with Engine.load(FOLDER / f"v1-{precision}", profile, backend, 1) as engine:
        np.testing.assert_allclose(engine(answers["images"]), answers[f"{precision}/{profile}/logits"], rtol=0, atol=ATOL)
        (routing,) = engine.routing(answers["images"]).values()
        np.testing.assert_array_equal(routing.slot, answers[f"{precision}/{profile}/slot"])


@pytest.mark.parametrize("graph", ["model.onnx", "model.inlined.onnx"])
@pytest.mark.parametrize(("precision", "profile"), EVERY_SETTING)
def test_a_stock_runtime_answers_as_it_did(precision: str, profile: str, graph: str, answers: dict[str, np.ndarray]) -> None:
    bundle = Bundle.open(FOLDER / f"v1-{precision}")
    feeds = {"image": answers["images"], **bundle.manifest.profiles[profile].inputs()}
    logits, slot = OnnxRuntimeBackend(bundle.path / graph, 1).run(feeds, ["logits", "encoderblock_1/slot"])
    np.testing.assert_allclose(logits, answers[f"{precision}/{profile}/logits"], rtol=0, atol=ATOL)
    np.testing.assert_array_equal(slot, answers[f"{precision}/{profile}/slot"])


@pytest.mark.parametrize(("written", "read"), [("fp32", "fp32"), ("bf16", "bf16-experts")])
def test_the_precision_is_what_it_was(written: str, read: str) -> None:
    assert Bundle.open(FOLDER / f"v1-{written}").manifest.precision == read


@pytest.mark.parametrize("ops", ["standard ops", "vmoe op library"])
@pytest.mark.parametrize(("written", "code"), [("fp32", 1), ("bf16", 4)])
def test_the_sdk_answers_as_it_did(
    written: str, code: int, ops: str, answers: dict[str, np.ndarray], tmp_path: Path
) -> None:
    prefix = sdk_build.prefixes().all.get(ops)
    if prefix is None:
        pytest.skip("the op library was not built here")
    runner = Runner(prefix, FOLDER / f"v1-{written}", sdk_build.onnxruntime_library(), 1, tmp_path)
    assert f"precision={code}" in runner.ask("info")
    for profile in PROFILES:
        logits = runner.logits(answers["images"], *setting_fields(profile))
        np.testing.assert_allclose(logits, answers[f"{written}/{profile}/logits"], rtol=0, atol=ATOL)
    runner.close()


def test_the_answers_tell_the_precisions_and_profiles_apart(answers: dict[str, np.ndarray]) -> None:
    logits = [answers[f"{p}/{profile}/logits"] for p in PRECISIONS for profile in PROFILES]
    for i, one in enumerate(logits):
        assert all(np.abs(one - other).max() > 10 * ATOL for other in logits[:i])
