"""Gates that make routing difficult."""

from __future__ import annotations

import numpy as np

GATE_KINDS = ("random", "tied", "repeated", "equal", "partly NaN", "special", "arbitrary", "neighbouring")
DENORMAL = np.float32(1e-44)
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, DENORMAL, -DENORMAL, 1e-38, 3e38, -3e38], np.float32)


def make_gates(rng: np.random.Generator, kind: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Return random float32 gates with the given shape.

    `kind`, from 0 to 7, selects the kind of gates, such as gates with many ties.
    """
    gates = rng.random(shape, np.float32)
    gates /= gates.sum(axis=-1, keepdims=True)
    if kind == 1:  # many ties
        gates = np.round(gates * 8) / 8
    elif kind == 2:  # repeated tokens
        gates = gates[:, rng.integers(0, max(1, shape[1] // 3), shape[1])]
    elif kind == 3:  # all the same
        gates = np.full(shape, rng.choice([0, 0.25, np.nan, np.inf, -np.inf]), np.float32)
    elif kind == 4:  # some NaN
        for value in (np.nan, np.inf, -np.inf):
            gates[rng.random(shape) < 0.1] = value
    elif kind == 5:
        gates = rng.choice(SPECIAL, shape)
    elif kind == 6:  # arbitrary bits: every kind of NaN, both signs, denormals
        gates = rng.integers(0, 2**32, shape, np.uint32).view(np.float32)
    elif kind == 7:  # neighbouring numbers
        gates = np.float32(0.25) + rng.integers(0, 3, shape).astype(np.float32) * np.spacing(np.float32(0.25))
    return np.ascontiguousarray(gates, np.float32)
