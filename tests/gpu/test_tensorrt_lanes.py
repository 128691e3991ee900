"""How a loaded engine moves images and answers, on stand-ins for TensorRT and CUDA's runtime."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fake_cuda import SIDE, FakeCuda, install

from vmoe_runtime.backends import tensorrt
from vmoe_runtime.errors import BackendError

API = "vmoe_runtime.backends.tensorrt.tensorrt_api"
LARGEST = 6


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    fake = install(monkeypatch, LARGEST)
    monkeypatch.delitem(sys.modules, API, raising=False)
    yield fake
    # Neither a name of its package: other tests put another stand-in in its place.
    sys.modules.pop(API, None)
    vars(tensorrt).pop("tensorrt_api", None)


def new_lane() -> Any:
    return importlib.import_module(API).LoadedEngine(b"engine", None).new_lane()


def images(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((count, SIDE, SIDE, 1), np.float32)


def test_calls_of_any_size_give_answers_of_their_own(cuda: FakeCuda) -> None:
    lane = new_lane()
    batches = [images(count, seed) for seed, count in enumerate((LARGEST, 1, 3, LARGEST))]
    answers = [lane.run(batch, ["logits"])[0] for batch in batches]
    for batch, answer in zip(batches, answers, strict=True):
        np.testing.assert_allclose(answer[:, 0], batch.reshape(len(batch), -1).sum(axis=1), rtol=1e-6)


def test_every_copy_is_of_pinned_memory_and_of_no_more_than_the_call_has(cuda: FakeCuda) -> None:
    lane = new_lane()
    lane.run(images(2, 1), ["logits"])
    image_bytes = 2 * SIDE * SIDE * 4
    assert cuda.copies == [("cudaMemcpyHostToDevice", image_bytes, True), ("cudaMemcpyDeviceToHost", 2 * 4, True)]


def test_an_output_that_is_asked_for_twice_is_copied_once(cuda: FakeCuda) -> None:
    first, second = new_lane().run(images(2, 2), ["logits", "logits"])
    np.testing.assert_array_equal(first, second)
    assert first is not second and not np.shares_memory(first, second)
    assert len(cuda.copies) == 2


def test_a_lane_gives_back_all_of_its_memory(cuda: FakeCuda) -> None:
    lane = new_lane()
    sizes = {LARGEST * SIDE * SIDE * 4, LARGEST * 4}
    assert set(cuda.device.values()) == set(cuda.pinned.values()) == sizes
    lane.run(images(1, 3), ["logits"])
    del lane
    gc.collect()
    assert cuda.device == cuda.pinned == {}


@pytest.mark.parametrize("function", ["cudaMalloc", "cudaMallocHost"])
def test_memory_that_does_not_suffice_is_one_sentence_and_none_is_kept(cuda: FakeCuda, function: str) -> None:
    cuda.refuses = function
    with pytest.raises(BackendError, match=rf"CUDA failed: .*\(cudaErrorMemoryAllocation of {function}\)"):
        new_lane()
    gc.collect()
    assert cuda.device == cuda.pinned == {}
