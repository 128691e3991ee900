"""Fixtures that several test modules share: the MNIST checkpoint of the samples, exported once per test process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vmoe_export import export_bundle

ROOT = Path(__file__).parents[1]
MNIST = ROOT / "samples" / "mnist"


@pytest.fixture(scope="session")
def mnist_checkpoint() -> Path:
    """The trained checkpoint: 5 blocks, all MoE, 8 experts, one channel, 28 px."""
    return MNIST / "vmoe_mnist"


@pytest.fixture(scope="session")
def mnist_data() -> Path:
    """The test images and labels as .npz: `images` uint8[1536,28,28], `labels` uint8[1536]."""
    return MNIST / "test_data.npz"


@pytest.fixture(scope="session")
def mnist_images(mnist_data: Path) -> dict[str, np.ndarray]:
    with np.load(mnist_data) as data:
        return {name: data[name] for name in data.files}


@pytest.fixture(scope="session")
def mnist_bundle(tmp_path_factory: pytest.TempPathFactory, mnist_checkpoint: Path) -> Path:
    """The MNIST model with routing groups of 16 images, as its official numbers were made."""
    target = tmp_path_factory.mktemp("mnist") / "mnist.vmoe"
    export_bundle(
        mnist_checkpoint,
        target,
        capacity=[0.1, 0.2, 0.3, 0.5, 1.05, 2.0],
        k=[1, 2],
        group="16",
        config=MNIST / "config.json",
        validate=False,
    )
    return target


@pytest.fixture(scope="session")
def mnist_image_bundle(tmp_path_factory: pytest.TempPathFactory, mnist_checkpoint: Path) -> Path:
    """The MNIST model with every image routed alone, exported with the defaults."""
    target = tmp_path_factory.mktemp("mnist") / "mnist_image.vmoe"
    export_bundle(mnist_checkpoint, target, capacity=[0.3, 1.05], k=[1, 2], validate=False)
    return target
