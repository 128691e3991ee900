"""Every golden case of experts choice and Soft MoE: the official model's answers in torch, ONNX Runtime and OpenVINO."""

from __future__ import annotations

from dataclasses import replace

import golden
import numpy as np
import pytest

EVERY_RUNNER = pytest.mark.parametrize("runner", golden.RUNNERS)
CHOICE = [case for case in golden.kind_cases() if case.kind == "experts-choice"]
SOFT = [case for case in golden.kind_cases() if case.kind == "soft"]
ROUNDED = [case for case in golden.kind_cases() if case.bfloat16]


def test_the_golden_set_is_whole() -> None:
    assert len([case for case in CHOICE if not case.bfloat16]) == 52
    assert len([case for case in CHOICE if case.bfloat16]) == 12
    assert len(SOFT) == 6 + 3
    assert SOFT[0].shares()[0].shape == (1, 25, 5, 4)
    assert {case.shares()[0].shape[0] * case.shares()[0].shape[1] // case.raw["batch"] for case in SOFT} == {25, 20}


@EVERY_RUNNER
@pytest.mark.parametrize("case", [case for case in CHOICE if not case.bfloat16], ids=str)
def test_experts_choose_the_official_tokens(case: golden.Case, runner: str) -> None:
    logits, *routes = case.run(runner)
    np.testing.assert_allclose(logits, case.logits, rtol=0, atol=1e-5)
    golden.check_choices(case, routes, atol=1e-5)


@EVERY_RUNNER
@pytest.mark.parametrize("case", ROUNDED, ids=str)
def test_the_bfloat16_dispatcher_gives_the_official_logits(case: golden.Case, runner: str) -> None:
    logits, *routes = case.run(runner)
    golden.check_rounded(case, logits)
    if case.kind == "soft":
        golden.check_shares(case, routes)
    else:
        golden.check_choices(case, routes, atol=3e-3)


@pytest.mark.parametrize("case", [SOFT[0], SOFT[3], SOFT[6], *[case for case in CHOICE if case.bfloat16][::4]], ids=str)
def test_without_the_rounding_the_mean_would_show_it(case: golden.Case) -> None:
    exact = replace(case, raw={**case.raw, "bfloat16": False}).run("torch")[0]
    assert np.abs(exact - case.logits).mean() > 1.5e-4
