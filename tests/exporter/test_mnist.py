"""Check the trained MNIST model at all 24 settings.

In float32, predictions must be the official ones. In other precisions, errors must be small.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import golden
import numpy as np
import pytest
from image_parts import in_parts

from vmoe_export import export_bundle
from vmoe_runtime import Engine
from vmoe_runtime.op_library import find_library

pytestmark = pytest.mark.long

MNIST = Path(__file__).parents[2] / "samples" / "mnist"
SETTINGS = [(ratio, k, bpr) for ratio in (0.1, 0.2, 0.3, 0.5, 1.05, 2.0) for k in (1, 2) for bpr in (True, False)]
EXPERTS = 8

# Largest loss of accuracy compared with float32, as a share of the 1,536 images. In groups of 16 images, the loss is
# the mean over all settings. If each image is routed separately, it is the mean over the settings with BPR.
MOST_LOST = {"bf16": 0.002, "int8": 0.005, "int4": 0.005}
# Largest loss of accuracy at any single setting. It is larger in groups of 16 images. There, a token that changes its
# expert also takes slots from other images' tokens.
MOST_LOST_AT_ONE_SETTING = {
    "image": {"bf16": 0.002, "int8": 0.005, "int4": 5 / 1536},
    "16": {"bf16": 0.004, "int8": 0.006, "int4": 0.006},
}
FEWEST_SAME_ANSWERS = {"bf16": 0.99, "int8": 0.98, "int4": 0.98}
# In another precision, at least this share of the pairs that float32 keeps must also be kept. There is one share per
# layer. The shares decrease from layer to layer, because differences accumulate.
FEWEST_KEPT = {
    "bf16": (0.985, 0.98, 0.97, 0.96, 0.95),
    "int8": (0.965, 0.95, 0.925, 0.905, 0.885),
    "int4": (0.975, 0.935, 0.89, 0.86, 0.82),
}

needs_op_library = pytest.mark.skipif(find_library() is None, reason="this installation has no op library")


@dataclass(frozen=True)
class Answers:
    """The model's results for the 1,536 images.

    Attributes:
        logits: the logits.
        kept: for each MoE layer, an int[G,S,K] array with the expert of each choice, or -1 if the choice is dropped.
    """

    logits: np.ndarray
    kept: list[np.ndarray]

    @property
    def classes(self) -> np.ndarray:
        return self.logits.argmax(axis=1)

    @property
    def pairs(self) -> list[np.ndarray]:
        """Return each layer's kept (token, expert) pairs as bool[G,S,E]."""
        return [golden.kept_pairs(layer, layer >= 0, EXPERTS) for layer in self.kept]


Setting = tuple[float, int, bool]
AnswersOf = Callable[[str, str, Setting], Answers]


@pytest.fixture(scope="module")
def answers_of(
    tmp_path_factory: pytest.TempPathFactory,
    mnist_bundle: Path,
    mnist_image_bundle: Path,
    mnist_images: dict[str, np.ndarray],
) -> AnswersOf:
    """Return a function that computes the model's results for a group, a precision and a setting, and caches them.

    The group is "16" for groups of 16 images, or "image" if each image is routed separately.
    """

    @functools.cache
    def engine(group: str, precision: str) -> Engine:
        bundle = mnist_bundle if group == "16" else mnist_image_bundle
        if precision != "fp32":
            target = tmp_path_factory.mktemp("precision") / "mnist.vmoe"
            bundle = export_bundle(bundle, target, precision=precision, validate=False).path
        return Engine.load(bundle, backend="onnxruntime", threads=1)

    @functools.cache
    def answers(group: str, precision: str, setting: Setting) -> Answers:
        ratio, k, bpr = setting

        def run(part: np.ndarray) -> list[np.ndarray]:
            logits, routing = engine(group, precision).logits_and_routing(part, capacity=ratio, k=k, bpr=bpr)
            return [logits, *(np.where(layer.kept, layer.expert, -1).astype(np.int8) for layer in routing.values())]

        logits, *kept = in_parts(run, mnist_images["images"])
        return Answers(logits, kept)

    return answers


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    return dict(np.load(MNIST / "reference.npz"))


@pytest.mark.sample(4)
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_predictions_are_the_official_ones(
    answers_of: AnswersOf, reference: dict[str, np.ndarray], setting: Setting
) -> None:
    found = answers_of("16", "fp32", setting)
    ratio, k, bpr = setting
    name = f"K{k}_C{ratio}_{'bpr' if bpr else 'vanilla'}"
    assert (found.classes == reference[f"pred_{name}"]).sum() >= 1535
    np.testing.assert_allclose(found.logits[:128], reference[f"logits_{name}"], rtol=0, atol=1e-5)


@pytest.mark.slow
@needs_op_library
@pytest.mark.parametrize("group", MOST_LOST_AT_ONE_SETTING)
@pytest.mark.parametrize("precision", MOST_LOST)
def test_answers_and_kept_pairs_are_those_of_float32_but_for_a_few(
    group: str, precision: str, answers_of: AnswersOf, mnist_images: dict[str, np.ndarray]
) -> None:
    labels = mnist_images["labels"]
    lost, kept = [], []
    for setting in SETTINGS if group == "16" else SETTINGS[::2]:
        short, exact = answers_of(group, precision, setting), answers_of(group, "fp32", setting)
        lost.append((exact.classes == labels).mean() - (short.classes == labels).mean())
        assert (short.classes == exact.classes).mean() >= FEWEST_SAME_ANSWERS[precision]
        kept.append([(one & other).sum() / other.sum() for one, other in zip(short.pairs, exact.pairs, strict=True)])
    assert np.mean(lost) <= MOST_LOST[precision]
    assert max(lost) <= MOST_LOST_AT_ONE_SETTING[group][precision]
    assert (np.min(kept, axis=0) >= FEWEST_KEPT[precision]).all()
    # Some pairs must differ from those in float32. Otherwise, the bundle itself would be in float32.
    assert np.max(np.mean(kept, axis=0)) < 1
