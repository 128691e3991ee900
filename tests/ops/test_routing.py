"""Check that VmoeRoute assigns the same slots as the official router (golden cases), in every runtime."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from op_models import RUNNERS, run_reference, runner
from routing_cases import GOLDEN, golden_cases

from vmoe_export.ops.table import OPS

pytestmark = pytest.mark.fast

ROUTE = OPS["VmoeRoute"]


@pytest.mark.sample(100)
@pytest.mark.parametrize("name", ["reference", *RUNNERS])
@pytest.mark.parametrize("number", range(40))
def test_kept_pairs_places_and_weights_are_the_official_ones(number: int, name: str) -> None:
    case = golden_cases()[number]
    with np.load(GOLDEN / "routing.npz") as stored:
        official_slot, official_weight = stored[f"slot{number}"], stored[f"cw{number}"]
    run = functools.partial(run_reference, ROUTE) if name == "reference" else runner(name, ROUTE.name)
    slot, weight, src, _ = run(*case.inputs.values())

    kept = slot[0] >= 0
    expert = slot[0] // case.capacity
    token = np.broadcast_to(np.arange(len(official_slot))[:, None], kept.shape)
    found_slot = np.full_like(official_slot, -1)
    found_slot[token[kept], expert[kept]] = slot[0][kept] % case.capacity
    np.testing.assert_array_equal(found_slot, official_slot)
    found_weight = np.zeros_like(official_weight)
    found_weight[token[kept], expert[kept]] = weight[0][kept]
    np.testing.assert_array_equal(found_weight, official_weight)
    np.testing.assert_array_equal(src.ravel()[slot[0][kept]], token[kept])
