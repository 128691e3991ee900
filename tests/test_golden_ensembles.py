"""Every golden case of the official ensembles of experts (E3), in torch, ONNX Runtime (both graphs) and OpenVINO."""

from __future__ import annotations

import golden
import numpy as np
import pytest
from test_golden import check_routes

CASES = golden.ensemble_cases()
FLOAT32 = [case for case in CASES if not case.bfloat16]
BFLOAT16 = [case for case in CASES if case.bfloat16]


def test_the_golden_set_is_whole() -> None:
    assert (len(FLOAT32), len(BFLOAT16)) == (2 * 87, 2 * 2)


@pytest.mark.parametrize("runner", golden.RUNNERS)
@pytest.mark.parametrize("case", FLOAT32, ids=str)
def test_float32_predictions_and_kept_pairs_are_the_official_ones(case: golden.Case, runner: str) -> None:
    logits, *routes = case.run(runner)
    np.testing.assert_allclose(logits, case.logits, rtol=0, atol=1e-5)
    check_routes(case, routes, atol=1e-5)


@pytest.mark.parametrize("runner", golden.RUNNERS)
@pytest.mark.parametrize("case", BFLOAT16, ids=str)
def test_bfloat16_dispatcher_keeps_the_official_pairs(case: golden.Case, runner: str) -> None:
    logits, *routes = case.run(runner)
    difference = np.abs(logits - case.logits)
    assert difference.max() <= 3e-3
    assert difference.mean() <= 1.5e-4
    check_routes(case, routes, atol=3e-3)
