"""VmoeRoute in every runtime: the official router's places (golden cases), and who comes before whom."""

from __future__ import annotations

import numpy as np
import pytest
from op_models import RUNNERS, run_reference, runner
from routing_cases import GOLDEN, Case, Outputs, golden_cases

from vmoe_export.ops.table import OPS

pytestmark = pytest.mark.fast

ROUTE = OPS["VmoeRoute"]


@pytest.mark.parametrize("name", ["reference", *RUNNERS])
@pytest.mark.parametrize("number", range(40))
def test_kept_pairs_places_and_weights_are_the_official_ones(number: int, name: str) -> None:
    case = golden_cases()[number]
    with np.load(GOLDEN / "routing.npz") as stored:
        official_slot, official_weight = stored[f"slot{number}"], stored[f"cw{number}"]
    slot, weight, src, _ = _route(name, case)

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


@pytest.mark.parametrize("name", ["reference", *RUNNERS])
def test_a_nan_gate_ranks_as_zero_and_stays_nan_in_the_weights(name: str) -> None:
    gates = np.array([[[np.nan, 0.5, -0.5]]], np.float32)
    slot, weight, _, _ = _route(name, Case(gates, 1, 3, True))
    np.testing.assert_array_equal(slot, [[[1, 0, 2]]])
    np.testing.assert_array_equal(weight, np.float32([[[0.5, np.nan, -0.5]]]))


def _route(name: str, case: Case) -> Outputs:
    if name == "reference":
        return run_reference(ROUTE, *case.inputs.values())
    return runner(name, "VmoeRoute")(*case.inputs.values())
