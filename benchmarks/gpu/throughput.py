"""Images per second of whole models on the card."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from vmoe_runtime import Engine

Array = np.ndarray[Any, np.dtype[Any]]

BATCHES = (1, 32)
_WARM_UP = 3


def noise(engine: Engine, count: int) -> Array:
    """Images of uniform noise, float32[N,H,W,C] in [-1, 1]."""
    return np.random.default_rng(0).uniform(-1, 1, (count, *engine.manifest.input.size)).astype(np.float32)


def throughput(engine: Engine, repeats: int) -> list[str]:
    """Images per second of calls with images in the CPU's memory, copies to and from the card included: medians."""
    lines = []
    for batch in BATCHES:
        images, taken = noise(engine, batch), []
        for _ in range(_WARM_UP + repeats):
            start = time.perf_counter()
            engine(images)
            taken.append(time.perf_counter() - start)
        seconds = float(np.median(taken[_WARM_UP:]))
        speed = f"{seconds * 1e3:.3f} ms a call, {batch / seconds:.0f} images/s"
        lines.append(f"- {engine.backend_description}, batch {batch}: {speed}")
    return lines
