"""Every golden case of the official model, in torch, ONNX Runtime (both graphs) and OpenVINO."""

from __future__ import annotations

from dataclasses import replace

import golden
import numpy as np
import pytest

pytestmark = pytest.mark.fast

CASES = [*golden.cases(), *golden.ensemble_cases()]
FLOAT32 = [case for case in CASES if not case.bfloat16]
BFLOAT16 = [case for case in CASES if case.bfloat16]


def test_the_golden_set_is_whole() -> None:
    assert len([case for case in golden.cases() if not case.bfloat16]) == 203
    assert len([case for case in golden.cases() if case.bfloat16]) == 24
    # Ensembles: the prediction, and the members' logits.
    assert len([case for case in golden.ensemble_cases() if not case.bfloat16]) == 2 * 87
    assert len([case for case in golden.ensemble_cases() if case.bfloat16]) == 2 * 2


@pytest.mark.parametrize("runner", golden.RUNNERS)
@pytest.mark.parametrize("case", FLOAT32, ids=str)
def test_float32_logits_and_kept_pairs_are_the_official_ones(case: golden.Case, runner: str) -> None:
    logits, *routes = case.run(runner)
    np.testing.assert_allclose(logits, case.logits, rtol=0, atol=1e-5)
    golden.check_routes(case, routes, atol=1e-5)


@pytest.mark.parametrize("runner", golden.RUNNERS)
@pytest.mark.parametrize("case", BFLOAT16, ids=str)
def test_bfloat16_dispatcher_keeps_the_official_pairs(case: golden.Case, runner: str) -> None:
    logits, *routes = case.run(runner)
    difference = np.abs(logits - case.logits)
    # One float32 ulp can flip a bfloat16 rounding, so single values may be off by a few 1e-3.
    assert difference.max() <= 3e-3
    assert difference.mean() <= 1.5e-4
    golden.check_routes(case, routes, atol=3e-3)


@pytest.mark.parametrize("runner", golden.RUNNERS)
def test_bfloat16_dispatcher_is_close_in_nearly_all_cases(runner: str) -> None:
    differences = [np.abs(case.run(runner)[0] - case.logits).max() for case in BFLOAT16]
    assert sum(d <= 5e-5 for d in differences) >= 20


@pytest.mark.parametrize("case", BFLOAT16[::6], ids=str)
def test_bfloat16_dispatcher_changes_the_logits(case: golden.Case) -> None:
    exact = replace(case, raw={**case.raw, "bfloat16": False}).run("torch")[0]
    assert np.abs(exact - case.logits).max() > 5e-5
