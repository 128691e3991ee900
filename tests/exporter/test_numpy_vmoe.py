"""The numpy model that other tests compare with is held to the official outputs itself."""

from __future__ import annotations

import functools

import golden
import numpy as np
import numpy_vmoe
import pytest

from vmoe_export import open_checkpoint

pytestmark = pytest.mark.fast

CASES = [*golden.cases(), *(case for case in golden.ensemble_cases() if case.output == "members")]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_numpy_model_gives_the_official_logits_gates_and_kept_pairs(case: golden.Case) -> None:
    result = numpy_vmoe.forward(_parameters(case.model), case.images, _settings(case))
    difference = np.abs(result.output - case.logits)
    # One float32 ulp can flip a bfloat16 rounding.
    assert difference.max() <= (3e-3 if case.bfloat16 else 1e-5)
    assert list(result.kept) == list(case.raw["layers"])
    for block, (gates, kept) in zip(result.kept, case.layers(), strict=True):
        np.testing.assert_array_equal(result.kept[block], kept)
        if gates is not None:
            atol = 3e-3 if case.bfloat16 else 1e-5
            np.testing.assert_allclose(result.gates[block], gates, rtol=0, atol=atol)


@functools.cache
def _parameters(model: str) -> dict[str, np.ndarray]:
    with open_checkpoint(golden.FOLDER / model) as checkpoint:
        return dict(checkpoint)


def _settings(case: golden.Case) -> numpy_vmoe.Settings:
    classifier = golden.settings(case.model)["model"]["classifier"]
    if (profile := case.profile) is None:
        return numpy_vmoe.Settings(classifier)
    return numpy_vmoe.Settings(
        classifier,
        group_tokens=int(case.group.removeprefix("tokens:")),
        k=profile.k,
        capacity=profile.slots,
        bpr=profile.bpr,
        members=case.members,
        bf16=case.bfloat16,
    )
