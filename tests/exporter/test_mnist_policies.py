"""Tests that check how a pool and a limit on experts affect the official MNIST model.

They use the same images as docs/routing.md.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_parts import in_parts

from vmoe_runtime import Engine

pytestmark = pytest.mark.long

ACCURACY = [
    # columns: number of images, setting, accuracy in %
    (1536, {"capacity": 0.1, "k": 1}, 90.4),
    (1536, {"capacity": 0.1, "k": 1, "pool": True}, 95.2),
    (1536, {"capacity": 0.2, "k": 1}, 94.3),
    (1536, {"capacity": 0.2, "k": 1, "pool": True}, 97.0),
    (768, {"capacity": 0.2, "k": 1, "pool": True, "max_experts": 3}, 97.0),
]
IN_GROUPS_OF_16 = [(768, {"capacity": 0.1, "k": 1}, 91.0), (768, {"capacity": 0.1, "k": 1, "pool": True}, 94.3)]
BACKENDS = ["onnxruntime", "openvino"]

EngineOf = Callable[..., Engine]


@pytest.fixture(scope="module")
def engine_of(mnist_image_bundle: Path, mnist_bundle: Path) -> EngineOf:
    """Return a function that loads one engine per group, backend and number of threads.

    The group is "16" for groups of 16 images, or "image" if each image is routed separately.
    """
    bundles = {"image": mnist_image_bundle, "16": mnist_bundle}

    @functools.cache
    def load(group: str, backend: str, threads: int = 1) -> Engine:
        return Engine.load(bundles[group], backend=backend, threads=threads)

    return load


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("backend", "group", "count", "setting", "percent"),
    [
        *(("onnxruntime", "image", *line) for line in ACCURACY),
        *(("onnxruntime", "16", *line) for line in IN_GROUPS_OF_16),
        ("openvino", "image", *ACCURACY[-1]),
        ("openvino", "16", *IN_GROUPS_OF_16[-1]),
    ],
    ids=str,
)
def test_accuracy_is_what_was_measured(
    backend: str,
    group: str,
    count: int,
    setting: dict[str, Any],
    percent: float,
    mnist_images: dict[str, np.ndarray],
    engine_of: EngineOf,
) -> None:
    assert abs(accuracy(engine_of(group, backend), mnist_images, count, setting) - percent) <= 0.3


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_pool_and_no_limit_is_official(engine_of: EngineOf, mnist_images: dict[str, np.ndarray], backend: str) -> None:
    images = mnist_images["images"][:64]
    engine = engine_of("image", backend)
    for name in ("c0.2-k1", "c0.3-k2-vanilla"):
        official = engine(images, name)
        for fields in ({"pool": False}, {"max_experts": 8}, {"pool": False, "max_experts": 100}):
            np.testing.assert_array_equal(engine(images, name, **fields), official)  # type: ignore[arg-type]
    # If the capacity is so large that no pair is dropped, a pool makes no difference.
    np.testing.assert_array_equal(engine(images, "c8-k1", pool=True), engine(images, "c8-k1"))


@pytest.mark.sample(3)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("limit", [1, 3, 8])
def test_an_image_alone_gives_the_same_bits_as_among_others(
    engine_of: EngineOf, mnist_images: dict[str, np.ndarray], backend: str, limit: int
) -> None:
    images = mnist_images["images"][:24]
    for threads in (1, 2):
        engine = engine_of("image", backend, threads)
        together = engine(images, "c0.2-k1-pool", max_experts=limit)
        apart = [engine(image[None], "c0.2-k1-pool", max_experts=limit)[0] for image in images]
        np.testing.assert_array_equal(np.stack(apart), together)


def accuracy(engine: Engine, data: dict[str, np.ndarray], count: int, setting: dict[str, Any]) -> float:
    """Return the accuracy in % on the first `count` images."""
    (logits,) = in_parts(lambda part: [engine(part, **{"pool": False, **setting})], data["images"][:count])
    return 100 * float((logits.argmax(axis=1) == data["labels"][:count]).mean())
