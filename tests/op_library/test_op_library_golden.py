"""The official model's logits from the op library, on every CPU path of this machine."""

from __future__ import annotations

import functools

import golden
import numpy as np
import pytest
from cpu_paths import Call, Outputs, outputs_of, run_calls, supported_paths
from golden import check_choices, check_rounded, check_routes, check_shares

from vmoe_runtime.op_library import find_library

if find_library() is None:
    pytest.skip("this installation has no op library", allow_module_level=True)

EVERY_PATH = pytest.mark.parametrize("path", supported_paths())
CASES = [*golden.cases(), *golden.ensemble_cases()]
OTHER_KINDS = golden.kind_cases()


@EVERY_PATH
def test_float32_logits_and_kept_pairs_are_the_official_ones(path: str) -> None:
    exact = [case for case in CASES if not case.bfloat16]
    assert len(exact) == 203 + 174
    for case in exact:
        logits, *routes = answers(path)[str(case)]
        np.testing.assert_allclose(logits, case.logits, rtol=0, atol=1e-5, err_msg=str(case))
        check_routes(case, routes, atol=1e-5)


@EVERY_PATH
def test_the_bfloat16_dispatcher_keeps_the_official_pairs(path: str) -> None:
    rounded = [case for case in CASES if case.bfloat16]
    assert len(rounded) == 24 + 4
    close = []
    for case in rounded:
        logits, *routes = answers(path)[str(case)]
        difference = np.abs(logits - case.logits)
        # One float32 ulp can flip a bfloat16 rounding, so single values may be off by a few 1e-3.
        assert difference.max() <= 3e-3, case
        assert difference.mean() <= 1.5e-4, case
        close += list(difference.reshape(len(difference), -1).max(axis=1) <= 5e-5)
        check_routes(case, routes, atol=3e-3)
    # Counted by image: a flip shows in all cases that have the image.
    assert len(close) == 128 + 12
    assert np.mean(close) >= 0.9


@EVERY_PATH
def test_experts_choice_and_soft_moe_are_the_official_ones(path: str) -> None:
    assert len(OTHER_KINDS) == 64 + 9
    for case in OTHER_KINDS:
        logits, *routes = answers(path)[str(case)]
        if case.bfloat16:
            check_rounded(case, logits)
        else:
            np.testing.assert_allclose(logits, case.logits, rtol=0, atol=1e-5, err_msg=str(case))
        if case.kind == "soft":
            check_shares(case, routes)
        else:
            check_choices(case, routes, atol=3e-3 if case.bfloat16 else 1e-5)


@functools.cache
def answers(path: str | None) -> dict[str, Outputs]:
    """Logits, then what each MoE layer puts out, of every case."""
    calls, unmerged = [], []
    cases = [*CASES, *OTHER_KINDS]
    for case in cases:
        folder, network = golden.exported(case.model, case.group, case.bfloat16, case.output)
        profile = case.profile
        feeds = {"image": case.images} | (profile.inputs if profile else {})
        calls.append(Call(folder / "model.onnx", feeds))
        outputs = golden.exported_model(network).layer_outputs
        unmerged.append((len(outputs), len(golden.unmerged_outputs(golden.exported_model(network)))))
    found = outputs_of(run_calls(calls, path))
    # Where tokens are merged is the last output of each layer.
    own = [
        [logits, *(route for i, route in enumerate(routes) if i % step < kept)]
        for (logits, *routes), (step, kept) in zip(found, unmerged, strict=True)
    ]
    return dict(zip(map(str, cases), own, strict=True))
