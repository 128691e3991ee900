"""Check the op library's logits for the official model, on every CPU path that this machine supports."""

from __future__ import annotations

import functools

import golden
import numpy as np
import pytest
from cpu_paths import Call, Outputs, need_op_library, outputs_of, run_calls, supported_paths

need_op_library()

CASES = [*golden.cases(), *golden.ensemble_cases(), *golden.kind_cases()]


@pytest.mark.sample(2)
@pytest.mark.parametrize("path", supported_paths())
def test_logits_and_kept_pairs_are_the_official_ones(path: str) -> None:
    found, close = answers(path), list[bool]()
    assert len(CASES) == 203 + 174 + 24 + 4 + 64 + 9
    for case in CASES:
        golden.check(case, found[str(case)])
        if case.bfloat16 and case.kind not in ("soft", "experts-choice"):
            difference = np.abs(found[str(case)][0] - case.logits)
            close += list(difference.reshape(len(difference), -1).max(axis=1) <= 5e-5)
    # Count images, not logits: if one token in an image changes its expert, all of that image's logits differ.
    assert len(close) == 128 + 12
    assert np.mean(close) >= 0.9


@functools.cache
def answers(path: str | None) -> dict[str, Outputs]:
    """Run every case on the CPU path `path`. Return each case's logits, followed by the outputs of each MoE layer."""
    calls, unmerged = [], []
    for case in CASES:
        folder, network, *_ = golden.parts(case.model, case.group, case.bfloat16, case.output)
        profile = case.profile
        feeds = {"image": case.images} | (profile.inputs if profile else {})
        calls.append(Call(folder / "model.onnx", feeds))
        outputs = golden.exported_model(network).layer_outputs
        unmerged.append((len(outputs), len(golden.unmerged_outputs(golden.exported_model(network)))))
    found = outputs_of(run_calls(calls, path))
    # Leave out the last output of each layer, which is the map of merged tokens.
    own = [
        [logits, *(route for i, route in enumerate(routes) if i % step < kept)]
        for (logits, *routes), (step, kept) in zip(found, unmerged, strict=True)
    ]
    return dict(zip(map(str, CASES), own, strict=True))
