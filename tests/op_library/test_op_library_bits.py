"""Check that an image's result always has the same bits.

The bits must not depend on the number of threads or on the other images in the batch. It must also make no difference
whether settings and weights are inputs, attributes or constants.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpu_paths import need_op_library, outputs_of, run_calls
from op_models import mlp_weights, node_call, normal, settings
from routing_cases import same_bits
from variants import Variant

from vmoe_export import export_bundle
from vmoe_runtime import Engine

need_op_library()

S32 = Variant(
    "the size of S/32, fewer blocks", classifier="token", position="learned", trained_grid=(7, 7), image_size=(224, 224),
    patch=(32, 32), hidden=160, heads=5, moe=(0,), experts=8, classes=100,
)  # fmt: skip
DENSE = Variant(
    "without experts, 1152 hidden features that int8 cuts in three", classifier="map", position="learned",
    trained_grid=(4, 4), image_size=(16, 16), hidden=576, heads=9, classes=100,
)  # fmt: skip
MODELS = ("mnist fp32", "mnist bf16-experts", "s32 fp32", "s32 bf16", "s32 int8", "s32 int4", "dense bf16", "dense int8")
PROFILES = ("c0.1-k1", "c0.3-k2", "c0.5-k1-vanilla", "c1.05-k2")
MERGED = {"s32": "c0.3-k1-r6", "dense": "r2"}
IMAGES = 40
EXPERTS, WIDTH, HIDDEN, TOKENS = 5, 21, 50, 33
OPTIONAL_SETTINGS = ("capacity", "k", "bpr")


@dataclass(frozen=True)
class Model:
    """A bundle that routes each image separately, images for it, and its profiles.

    A bundle without experts has the single profile None.
    """

    bundle: Path
    images: np.ndarray
    profiles: tuple[str | None, ...]


@pytest.fixture(scope="module", params=MODELS)
def model(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    mnist_checkpoint: Path,
    mnist_images: dict[str, np.ndarray],
) -> Model:
    name, precision = request.param.split()
    folder = tmp_path_factory.mktemp("bits")
    options: dict[str, Any] = {"precision": precision}
    profiles: tuple[str | None, ...] = (None,)
    if name != "dense":
        options |= {"capacity": [0.3], "k": [1], "group": "image"}
        profiles = PROFILES
    if name == "mnist":
        checkpoint, images = mnist_checkpoint, mnist_images["images"][:IMAGES]
        if precision == "fp32":
            return Model(request.getfixturevalue("mnist_image_bundle"), images, profiles)
    else:
        variant = S32 if name == "s32" else DENSE
        checkpoint, images = variant.write(folder), variant.images(IMAGES)
        options["config"] = variant.config
        profiles = (*profiles, MERGED[name])
    export_bundle(checkpoint, folder / "model.vmoe", validate=False, **options)
    return Model(folder / "model.vmoe", images, profiles)


@pytest.fixture(scope="module")
def engine(model: Model) -> Iterator[Engine]:
    with Engine.load(model.bundle, backend="onnxruntime", threads=2) as loaded:
        assert "CPU, vmoe op library, " in loaded.backend_description
        yield loaded


@pytest.fixture(scope="module")
def logits(model: Model, engine: Engine) -> dict[str | None, np.ndarray]:
    """Return the logits for each profile. All images are in one batch, on two threads."""
    return {profile: engine(model.images, profile) for profile in model.profiles}


@pytest.mark.sample(4)
def test_profiles_and_images_differ(logits: dict[str | None, np.ndarray]) -> None:
    """Check that no two results are equal. If some were, equal bits in the other tests would prove nothing."""
    everything = np.concatenate(list(logits.values()))
    assert np.isfinite(everything).all()
    assert len(np.unique(everything, axis=0)) == len(everything)


@pytest.mark.sample(4)
@pytest.mark.parametrize("threads", [1, 3])
def test_threads_do_not_matter(model: Model, logits: dict[str | None, np.ndarray], threads: int) -> None:
    with Engine.load(model.bundle, backend="onnxruntime", threads=threads) as other:
        for profile in model.profiles:
            # Threads divide the work by columns if there are few images, and by rows if there are many.
            for size in (1, 2, 5, IMAGES):
                assert_same_bits(other(model.images[:size], profile), logits[profile][:size])


@pytest.mark.sample(4)
@pytest.mark.parametrize("size", [1, 7])
def test_the_size_of_the_batch_does_not_matter(
    model: Model, engine: Engine, logits: dict[str | None, np.ndarray], size: int
) -> None:
    for profile in model.profiles:
        batches = [engine(model.images[first : first + size], profile) for first in range(0, IMAGES, size)]
        assert_same_bits(np.concatenate(batches), logits[profile])


@pytest.mark.sample(4)
def test_neighbours_do_not_matter(model: Model, engine: Engine, logits: dict[str | None, np.ndarray]) -> None:
    order = np.random.default_rng(0).permutation(IMAGES)
    strangers = np.repeat(model.images[5:6], 9, axis=0)
    strangers[4] = model.images[30]
    for profile in model.profiles:
        assert_same_bits(engine(model.images[order], profile), logits[profile][order])
        assert_same_bits(engine(strangers, profile)[4], logits[profile][30])


@pytest.mark.sample(4)
def test_eight_threads_with_profiles_of_their_own_do_not_disturb_each_other(
    model: Model, engine: Engine, logits: dict[str | None, np.ndarray]
) -> None:
    def serve(thread: int) -> list[tuple[str | None, int, np.ndarray]]:
        answers = []
        for turn in range(6):
            profile = model.profiles[(thread + turn) % len(model.profiles)]
            first = thread * 4 + turn
            answers.append((profile, first, engine(model.images[first : first + 1 + thread % 3], profile)))
        return answers

    with ThreadPoolExecutor(8) as pool:
        for answers in pool.map(serve, range(8)):
            for profile, first, found in answers:
                assert_same_bits(found, logits[profile][first : first + len(found)])


def test_settings_are_inputs_or_attributes_and_an_input_wins() -> None:
    op_name, inputs = "VmoeRoute", {"gates": np.random.default_rng(1).random((2, TOKENS, EXPERTS), np.float32)}
    calls = []
    for capacity, k, bpr in ((1, 1, 0), (4, 2, 1), (9, 3, 0), (30, 5, 1)):
        numbers = {"capacity": capacity, "k": k, "bpr": bpr}
        arrays = dict(zip(OPTIONAL_SETTINGS, settings(capacity, k, bool(bpr)), strict=True))
        others = {"capacity": 2, "k": 4, "bpr": 1 - bpr}
        calls += [
            node_call(op_name, inputs | arrays),
            node_call(op_name, inputs, numbers),
            node_call(op_name, inputs | arrays, others),
            node_call(op_name, inputs | {"k": arrays["k"]}, others | {"capacity": capacity, "bpr": bpr}),
            node_call(op_name, inputs | {"capacity": arrays["capacity"], "bpr": arrays["bpr"]}, {"k": k}),
            node_call(op_name, inputs | arrays, constants=OPTIONAL_SETTINGS),
            node_call(op_name, inputs, others),
        ]
    results = outputs_of(run_calls(calls))
    for first in range(0, len(results), 7):
        expected, *found, different = results[first : first + 7]
        assert all(same_bits(outputs, expected) for outputs in found)
        assert not np.array_equal(different[0], expected[0])


@pytest.mark.parametrize(
    ("op_name", "bf16"),
    [("VmoeExpertMlp", False), ("VmoeExpertMlp", True), ("VmoeDenseMlp", False), ("VmoeLinear", False)],
)
def test_weights_that_are_fed_are_weights_that_are_constant(op_name: str, bf16: bool) -> None:
    rng = np.random.default_rng(3)
    x = normal(rng, 2, TOKENS, WIDTH)
    inputs = {
        "VmoeExpertMlp": {
            "buf": normal(rng, EXPERTS, 9, WIDTH),
            **mlp_weights(rng, WIDTH, HIDDEN, EXPERTS, weights="bf16" if bf16 else "float"),
        },
        "VmoeDenseMlp": {"x": x, **mlp_weights(rng, WIDTH, HIDDEN)},
        "VmoeLinear": {"x": x, "w": normal(rng, WIDTH, HIDDEN), "b": normal(rng, HIDDEN)},
    }[op_name]
    weights = tuple(inputs)[1:]
    halves = (weights, weights[:2], weights[2:], tuple(n for n in weights if n.startswith("w")))
    calls = [node_call(op_name, inputs), *(node_call(op_name, inputs, constants=names) for names in halves)]
    expected, *found = outputs_of(run_calls(calls))
    assert all(same_bits(outputs, expected) for outputs in found)


def assert_same_bits(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found.view(np.int32), expected.view(np.int32))
