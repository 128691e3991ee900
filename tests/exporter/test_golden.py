"""Run every golden case of the official model in torch, numpy, ONNX Runtime (both graphs) and OpenVINO."""

from __future__ import annotations

from dataclasses import replace

import golden
import numpy as np
import pytest

pytestmark = pytest.mark.fast

TOP_K = [*golden.cases(), *golden.ensemble_cases()]
CHOICE, SOFT = ([case for case in golden.kind_cases() if case.kind == kind] for kind in ("experts-choice", "soft"))
ROUNDED = [case for case in TOP_K if case.bfloat16]


def test_the_golden_set_is_whole() -> None:
    # Each tuple contains a list of cases, the number of its cases in float32, and the number in bfloat16. Ensembles have
    # two cases per setting, because an ensemble has two outputs: the prediction and the members' logits.
    for cases, exact, rounded in ((golden.cases(), 203, 24), (golden.ensemble_cases(), 2 * 87, 2 * 2), (CHOICE, 52, 12)):
        assert [case.bfloat16 for case in cases].count(False) == exact
        assert [case.bfloat16 for case in cases].count(True) == rounded
    assert len(SOFT) == 6 + 3
    assert SOFT[0].shares()[0].shape == (1, 25, 5, 4)
    assert {case.shares()[0].shape[0] * case.shares()[0].shape[1] // case.raw["batch"] for case in SOFT} == {25, 20}


@pytest.mark.sample(20)
@pytest.mark.parametrize("runner", golden.RUNNERS)
@pytest.mark.parametrize("case", [*TOP_K, *CHOICE, *SOFT], ids=str)
def test_logits_and_kept_pairs_are_the_official_ones(case: golden.Case, runner: str) -> None:
    golden.check(case, case.run(runner))


@pytest.mark.sample(2)
@pytest.mark.parametrize("runner", golden.RUNNERS)
def test_bfloat16_dispatcher_is_close_in_nearly_all_cases(runner: str) -> None:
    differences = [np.abs(case.run(runner)[0] - case.logits).max() for case in ROUNDED]
    assert sum(d <= 5e-5 for d in differences) >= 20


@pytest.mark.parametrize("case", [*ROUNDED[::6], *SOFT[::3], *[c for c in CHOICE if c.bfloat16][::4]], ids=str)
def test_without_the_rounding_of_bfloat16_it_would_show(case: golden.Case) -> None:
    difference = np.abs(replace(case, raw={**case.raw, "bfloat16": False}).run("torch")[0] - case.logits)
    assert difference.max() > 5e-5 and (case in ROUNDED or difference.mean() > 1.5e-4)
