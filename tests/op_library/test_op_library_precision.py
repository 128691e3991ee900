"""The trained MNIST model in bfloat16 and int8 on the op library: at all 24 settings, how far from float32."""

from __future__ import annotations

from pathlib import Path

import golden
import numpy as np
import pytest
from image_parts import in_parts

from vmoe_export import export_bundle
from vmoe_runtime.backends.onnxruntime_cpu import OnnxRuntimeBackend
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.op_library import find_library
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing_kinds import TopKRules

if find_library() is None:
    pytest.skip("this installation has no op library", allow_module_level=True)

MNIST = Path(__file__).parents[2] / "samples" / "mnist"
SETTINGS = [(ratio, k, bpr) for ratio in (0.1, 0.2, 0.3, 0.5, 1.05, 2.0) for k in (1, 2) for bpr in (True, False)]
LAYERS, EXPERTS = 5, 8
OUTPUTS = ["logits", *(f"encoderblock_{i}/{what}" for i in range(LAYERS) for what in ("expert", "kept"))]

# Shares of the 1,536 images, on average over the settings.
MOST_LOST = {"bf16": 0.002, "int8": 0.005}
# At each one. In groups of 16 images a token that goes elsewhere takes places from other images as well.
MOST_LOST_AT_ONE_SETTING = {
    "mnist_image_bundle": {"bf16": 0.002, "int8": 0.005},
    "mnist_bundle": {"bf16": 0.004, "int8": 0.006},
}
FEWEST_SAME_ANSWERS = {"bf16": 0.99, "int8": 0.98}
# By layer, of the (token, expert) pairs that have a place in float32: layers further on see what those before made of it.
FEWEST_KEPT = {"bf16": (0.985, 0.98, 0.97, 0.96, 0.95), "int8": (0.965, 0.95, 0.925, 0.905, 0.885)}

Run = tuple[np.ndarray, list[np.ndarray]]
"""The class of each image, and bool[G,S,E] of the pairs that have a place, of each layer."""


@pytest.fixture(scope="module")
def images(mnist_images: dict[str, np.ndarray]) -> np.ndarray:
    """float32[1536,28,28,1] in [-1, 1]."""
    return (mnist_images["images"] / 127.5 - 1).astype(np.float32)[..., None]


@pytest.fixture(scope="module", params=MOST_LOST_AT_ONE_SETTING)
def bundle(request: pytest.FixtureRequest) -> Path:
    """The model in float32, with images routed alone and in groups of 16."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def rules(bundle: Path) -> TopKRules:
    found = Bundle.open(bundle).manifest.rules
    assert isinstance(found, TopKRules)
    return found


@pytest.fixture(scope="module")
def exact(bundle: Path, images: np.ndarray, rules: TopKRules) -> list[Run]:
    return runs(bundle, images, rules)


@pytest.fixture(scope="module")
def short(
    request: pytest.FixtureRequest,
    bundle: Path,
    tmp_path_factory: pytest.TempPathFactory,
    images: np.ndarray,
    rules: TopKRules,
) -> list[Run]:
    target = tmp_path_factory.mktemp("precision") / "mnist.vmoe"
    export_bundle(bundle, target, precision=request.param, validate=False)
    return runs(target, images, rules)


def runs(bundle: Path, images: np.ndarray, rules: TopKRules) -> list[Run]:
    """What the bundle makes of the images, setting by setting."""
    graph = OnnxRuntimeBackend(bundle / "model.onnx", threads=2, library=find_library())
    return [run(graph, images, rules.profile(*setting)) for setting in SETTINGS]


def run(graph: OnnxRuntimeBackend, images: np.ndarray, profile: Profile) -> Run:
    logits, *routes = in_parts(lambda part: graph.run({"image": part, **profile.inputs()}, OUTPUTS), images)
    layers = zip(routes[::2], routes[1::2], strict=True)
    return logits.argmax(axis=1), [golden.kept_pairs(expert, kept, EXPERTS) for expert, kept in layers]


@pytest.mark.parametrize(("precision", "short"), [(name, name) for name in MOST_LOST], indirect=["short"], ids=MOST_LOST)
def test_answers_and_places_are_those_of_float32_but_for_a_few(
    precision: str,
    short: list[Run],
    exact: list[Run],
    mnist_images: dict[str, np.ndarray],
    request: pytest.FixtureRequest,
) -> None:
    labels = mnist_images["labels"]
    lost, kept = [], []
    for (answers, pairs), (exact_answers, exact_pairs) in zip(short, exact, strict=True):
        lost.append((exact_answers == labels).mean() - (answers == labels).mean())
        assert (answers == exact_answers).mean() >= FEWEST_SAME_ANSWERS[precision]
        kept.append([(one & other).sum() / other.sum() for one, other in zip(pairs, exact_pairs, strict=True)])
    print(f"{precision}: top-1 lost {np.mean(lost):.4%} on average, {max(lost):.4%} at most; kept {np.min(kept, axis=0)}")
    assert np.mean(lost) <= MOST_LOST[precision]
    assert max(lost) <= MOST_LOST_AT_ONE_SETTING[request.node.callspec.params["bundle"]][precision]
    assert (np.min(kept, axis=0) >= FEWEST_KEPT[precision]).all()
    # It is another precision.
    assert np.max(np.mean(kept, axis=0)) < 1
