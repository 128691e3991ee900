"""Check that an engine uses no CPU between calls, so that it doesn't slow down the rest of the process."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import c_engine
import numpy as np
import onnxruntime
import pytest

from vmoe_runtime import Engine

_CALLS, _PAUSE_SECONDS = 10, 0.03


def seconds_between_calls(call: Callable[[], object]) -> float:
    """Return how many CPU seconds this process uses in the pauses after it has called `call`."""
    taken = 0.0
    for _ in range(_CALLS):
        call()
        start = time.process_time()
        time.sleep(_PAUSE_SECONDS)
        taken += time.process_time() - start
    return taken


def between_calls_in_python(bundle: Path, images: np.ndarray, *, spin: bool) -> float:
    with Engine.load(bundle, backend="onnxruntime", threads=2, spin=spin) as engine:
        return seconds_between_calls(lambda: engine(images))


def between_calls_in_c(bundle: Path, images: np.ndarray, *, spin: bool) -> float:
    if c_engine.sdk() is None:
        pytest.skip("this installation has no SDK")
    engine = c_engine.load(bytes(bundle), threads=2, spin=spin)
    try:
        return seconds_between_calls(lambda: c_engine.call("vmoe_engine_warm_up", engine, len(images), None))
    finally:
        c_engine.sdk().vmoe_engine_free(engine)


@pytest.mark.parametrize("between_calls", [between_calls_in_python, between_calls_in_c])
def test_threads_sleep_between_calls_unless_they_are_told_to_spin(
    between_calls: Callable[..., float],
    mnist_image_bundle: Path,
    mnist_images: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Restore the real SessionOptions. Because tests share CPUs, they usually run with a replacement that never lets threads
    # spin.
    monkeypatch.setattr(onnxruntime, "SessionOptions", onnxruntime.capi.onnxruntime_pybind11_state.SessionOptions)
    images = mnist_images["images"][:4]
    spinning = between_calls(mnist_image_bundle, images, spin=True)
    assert between_calls(mnist_image_bundle, images, spin=False) < spinning / 4
