"""Crops of free photos from the Python packages scikit-image, scikit-learn and matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Array = np.ndarray[Any, np.dtype[Any]]

_SKIMAGE, _SKLEARN, _MATPLOTLIB = "skimage/data", "sklearn/datasets/images", "matplotlib/mpl-data/sample_data"
TEST_PHOTOS = (
    *(f"{_SKIMAGE}/{name}.png" for name in ("astronaut", "brick", "chelsea", "coffee", "coins", "gravel", "moon")),
    *(f"{_SKIMAGE}/{name}.jpg" for name in ("hubble_deep_field", "rocket")),
    f"{_SKLEARN}/china.jpg",
)
"""The photos that precisions are compared on."""
CALIBRATION_PHOTOS = (
    *(f"{_SKIMAGE}/{name}" for name in ("camera.png", "grass.png", "motorcycle_left.png", "retina.jpg")),
    f"{_SKLEARN}/flower.jpg",
    f"{_MATPLOTLIB}/grace_hopper.jpg",
)
"""The photos that int8 peers are calibrated on; none is in `TEST_PHOTOS`."""

_LEAST_SIDE = 0.4  # smallest side of a crop, relative to the photo's shorter side


def carried_file(path: str) -> Path:
    """Return the path of a file in an installed package, without importing the package.

    `path` has the form `PACKAGE/...`.

    Raises:
        ModuleNotFoundError: the package isn't installed.
    """
    package, _, rest = path.partition("/")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{package} isn't installed")
    return Path(spec.submodule_search_locations[0], rest)


def crops(photos: Sequence[str], count: int, height: int, width: int) -> Array:
    """Return `count` crops, uint8[count, height, width, 3], taken from the photos in turn.

    The crops have random sizes and positions, which are the same in every call.
    """
    random = np.random.default_rng(0)
    opened = [Image.open(carried_file(photo)).convert("RGB") for photo in photos]
    return np.stack([_crop(opened[index % len(opened)], height, width, random) for index in range(count)])


def _crop(photo: Image.Image, height: int, width: int, random: np.random.Generator) -> Array:
    scale = random.uniform(_LEAST_SIDE, 1) * min(photo.width / width, photo.height / height)
    left, top = random.uniform(0, photo.width - scale * width), random.uniform(0, photo.height - scale * height)
    box = (left, top, left + scale * width, top + scale * height)
    return np.asarray(photo.resize((width, height), Image.Resampling.BICUBIC, box))
