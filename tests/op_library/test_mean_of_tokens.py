"""The classifier "gap" takes the mean of an image's tokens: the same bits whatever other images there are."""

from __future__ import annotations

import golden
import pytest
from cpu_paths import Call, outputs_of, run_calls, supported_paths
from test_op_library_bits import assert_same_bits

from vmoe_runtime.op_library import find_library


@pytest.mark.skipif(find_library() is None, reason="this installation has no op library")
@pytest.mark.parametrize("path", supported_paths() if find_library() else ())
@pytest.mark.parametrize("threads", [1, 3])
def test_an_image_alone_gives_the_same_bits_as_among_others(path: str, threads: int) -> None:
    folder, network = golden.exported("g2", "tokens:16", False)
    assert network.config.classifier == "gap"
    images = golden.arrays("g2")["images"][:4]
    picks = [[0, 1, 2, 3], [0], [3], [2, 2, 1]]
    calls = [Call(folder / "model.onnx", {"image": images[pick]}, ["logits"]) for pick in picks]
    (together,), *parts = outputs_of(run_calls(calls, path, threads=threads))
    for (found,), pick in zip(parts, picks[1:], strict=True):
        assert_same_bits(found, together[pick])
