"""Makes the weights and pictures for the cases in `tests/data/families.json`.

They depend only on names, shapes and a seed. `tests/data/make_families.py` fills the original libraries' models with these
weights. Tests write the same weights to files again.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

_EMBEDDING = re.compile(r"pos_embed|position(al)?_embedding|class_embedding|(?<!head\.cls)_tokens?$|token_embedding")


def tensor(name: str, shape: Sequence[int], seed: int) -> np.ndarray:
    """Return a random float32 tensor that depends only on its name, its shape and the seed.

    The values of embeddings and patch features are as small as in trained models, so that the epsilon of a norm matters.
    """
    mean, deviation = mean_and_deviation(name, shape)
    return np.asarray(mean + deviation * noise(name, shape, seed), np.float32)


def tensors(shapes: Mapping[str, Sequence[int]], seed: int) -> dict[str, np.ndarray]:
    return {name: tensor(name, shape, seed) for name, shape in shapes.items()}


def pictures(size: Sequence[int], seed: int) -> np.ndarray:
    """Return two random pictures as a preprocessed float32[2,3,height,width]."""
    return noise("pictures", (2, 3, *size), seed).astype(np.float32)


def noise(name: str, shape: Sequence[int], seed: int) -> np.ndarray:
    """Return a float64 array of values from a standard normal distribution."""
    return np.asarray(np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(tuple(shape)))


def mean_and_deviation(name: str, shape: Sequence[int]) -> tuple[float, float]:
    """Return the mean and the standard deviation from which a tensor with this name and shape is drawn."""
    if name.endswith(("gamma", "lambda1")):
        return 0.5, 0.1
    if len(shape) == 4:
        return 0.0, 0.02 / math.sqrt(math.prod(shape[1:]))
    if name.endswith("bias"):
        return 0.0, 0.02 if "patch" in name else 0.1
    if _EMBEDDING.search(name.removesuffix(".weight")):
        return 0.0, 0.02
    if len(shape) < 2:
        return 1.0, 0.1  # scales of norms
    return 0.0, 1 / math.sqrt(shape[-1]) if len(shape) == 2 else 1.0
