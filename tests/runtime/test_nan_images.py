"""Check that a NaN in one image doesn't change a single bit of the results for the other images in the batch.

Every image must get a result.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sdk_build

from vmoe_export import export_bundle
from vmoe_runtime import BackendError, Engine, op_library

MNIST = Path(__file__).parents[2] / "samples" / "mnist"
COUNT = 6
BACKENDS = ("op library", "standard ops", "openvino", "sdk on op library", "sdk on standard ops")
MODELS: dict[str, dict[str, Any]] = {
    "merging": {"merge": 5},
    "pooled": {"pool": True, "max_experts": 3},
    "expert choice": {"router": "experts-choice", "merge": 5},
}

pytestmark = pytest.mark.filterwarnings("ignore:the images have NaN pixels", "ignore:this installation")


@pytest.fixture(scope="module", params=MODELS)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("nan") / "mnist.vmoe"
    options = {"k": [1]} if "router" not in MODELS[request.param] else {}
    config = MNIST / "config.json"
    export_bundle(
        MNIST / "vmoe_mnist", target, capacity=[0.3], config=config, validate=False, **options, **MODELS[request.param]
    )
    return target


@pytest.fixture(params=BACKENDS)
def load(request: pytest.FixtureRequest, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Load the bundle again."""
    backend = str(request.param)
    if backend.startswith("sdk"):
        prefixes = sdk_build.prefixes()
        prefix = prefixes.whole if backend.endswith("op library") else prefixes.standard_ops
        return lambda: sdk_build.Runner([sdk_build.program(prefix, "sdk_runner")], bundle, tmp_path)
    if backend != "op library":
        monkeypatch.setattr(op_library, "find_library", lambda: None)
    elif op_library.find_library() is None:
        pytest.skip("this installation has no op library")
    return lambda: Engine.load(bundle, backend="openvino" if backend == "openvino" else "onnxruntime", threads=1)


def answers(loaded: Any, images: np.ndarray) -> np.ndarray:
    return np.asarray(loaded.logits(images) if isinstance(loaded, sdk_build.Runner) else loaded(images))


@pytest.mark.sample(3)
def test_every_position_of_a_batch(load: Callable[[], Any], mnist_images: dict[str, np.ndarray]) -> None:
    images = (mnist_images["images"][:COUNT, ..., None] / np.float32(127.5) - 1).astype(np.float32)
    loaded, found = load(), {}
    for position in (3, 0, 1, 2, 4, 5):
        for pixels in (np.s_[:], np.s_[14, 14]):
            mixed = images.copy()
            mixed[position][pixels] = np.nan
            found[position, pixels != np.s_[:]] = answers(loaded, mixed)
    # the run without NaN must come last; otherwise, the values that it leaves in buffers would hide the effects of NaN
    expected = answers(loaded, images)
    loaded.close()
    for (position, _), answer in found.items():
        others = np.arange(COUNT) != position
        assert answer.shape == expected.shape
        assert answer[others].tobytes() == expected[others].tobytes()
        assert not np.isfinite(answer[position]).any()


@pytest.mark.filterwarnings("ignore:the images go from 0 to 0")
def test_an_answer_of_another_number_of_rows_is_refused(mnist_image_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.zeros((COUNT, 28, 28, 1), np.float32)
    with Engine.load(mnist_image_bundle) as engine:
        assert engine._backend is not None
        run = engine._backend.run
        monkeypatch.setattr(engine._backend, "run", lambda *arguments: [values[:4] for values in run(*arguments)])
        for call in (engine, engine.routing, engine.logits_and_routing):
            with pytest.raises(BackendError, match=r"^the graph's output '\S+' has shape \(4, .*, and 6 images need \(6, "):
                call(images)
