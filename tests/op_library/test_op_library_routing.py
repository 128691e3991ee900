"""Tests for VmoeRoute and VmoeRouterBlock in the op library.

On every CPU path, tokens must get the same slots as in the reference.
"""

from __future__ import annotations

import numpy as np
import pytest
from cpu_paths import Call, need_op_library, outputs_of, run_calls, supported_paths
from op_models import node_call, run_exact, settings
from policy_cases import policy_cases
from routing_cases import Case, golden_cases, route, same_bits

from vmoe_export.ops.table import OPS

need_op_library()

BLOCK = OPS["VmoeRouterBlock"]


@pytest.mark.sample(2)
@pytest.mark.parametrize("path", supported_paths())
def test_every_cpu_path_routes_alike(path: str) -> None:
    # These cases use no policies. test_routing_policies.py tests the cases with policies.
    random = [Case(case.gates, case.capacity, case.k, case.bpr) for case in policy_cases(3, 1000)]
    chosen = [*golden_cases(), *random]
    found = outputs_of(run_calls([node_call("VmoeRoute", case.inputs) for case in chosen], path))
    wrong = [str(case) for case, outputs in zip(chosen, found, strict=True) if not same_bits(outputs, route(case))]
    assert not wrong, f"{len(wrong)} of {len(chosen)} cases differ, such as {wrong[:5]}"


@pytest.mark.parametrize("path", supported_paths())
def test_a_router_block_routes_as_the_reference_does_by_the_same_gates(path: str) -> None:
    rng = np.random.default_rng(7)
    made = [router_block(rng, *sizes) for sizes in ((1, 1, 16, 1), (1, 50, 64, 8), (3, 40, 17, 5), (2, 130, 100, 33))]
    calls = []
    for layer, numbers in made:
        calls += [router_call(layer, *setting) for setting in (whole_setting(layer), *numbers)]
    found = iter(outputs_of(run_calls(calls, path)))
    for layer, numbers in made:
        gates = gates_of(layer, next(found))
        finite = np.isfinite(layer["x"]).all(axis=-1)
        with np.errstate(invalid="ignore"):
            exact = run_exact(BLOCK, *layer.values(), *settings(*whole_setting(layer)))
        np.testing.assert_allclose(gates[finite], gates_of(layer, exact)[finite], rtol=0, atol=1e-6)
        # The first and the last expert have equal router weights, so they have the same gates. The first and the last token
        # are equal, too.
        assert (gates[finite, 0] == gates[finite, -1]).all()
        np.testing.assert_array_equal(gates[:, 0], gates[:, -1])
        for capacity, k, bpr in numbers:
            case = Case(gates, capacity, k, bpr)
            assert same_bits(next(found), route(case)), case


@pytest.mark.parametrize("path", supported_paths())
def test_gates_that_are_subnormal_rank_experts(path: str) -> None:
    inputs = {"x": np.ones((1, 1, 1), np.float32), "router": np.array([[0, -100, -90]], np.float32)}
    ((gates,),) = outputs_of(run_calls([node_call("VmoeGates", inputs)], path))
    assert gates[0, 0, 0] == 1
    assert gates[0, 0, 2] > gates[0, 0, 1] > 0


def router_block(
    rng: np.random.Generator, groups: int, tokens: int, width: int, experts: int
) -> tuple[dict[str, np.ndarray], list[tuple[int, int, bool]]]:
    """Return the float inputs of VmoeRouterBlock, and settings for it.

    Some experts have equal weights, some tokens are equal, and some tokens contain NaN or infinity.
    """
    x, router = (rng.standard_normal(shape, np.float32) for shape in ((groups, tokens, width), (width, experts)))
    router *= np.float32(2 / width**0.5)
    router[:, -1] = router[:, 0]
    x[:, tokens // 2 :] = x[:, : tokens - tokens // 2]
    x[:, -1] = x[:, 0]
    if tokens > 4:
        x[:, 1, 3], x[:, 3, 0] = np.nan, np.inf
    norm = [1 + rng.standard_normal(width, np.float32) / 5, rng.standard_normal(width, np.float32) / 5]
    layer: dict[str, np.ndarray] = {"x": x, "ln_scale": norm[0], "ln_bias": norm[1], "router": router}
    choices = sorted({1, min(2, experts), experts})
    return layer, [(c, k, bpr) for c in (1, max(1, tokens // 4), tokens) for k in choices for bpr in (True, False)]


def whole_setting(layer: dict[str, np.ndarray]) -> tuple[int, int, bool]:
    """Return a setting at which every choice of every token gets a slot."""
    return layer["x"].shape[1], layer["router"].shape[1], False


def router_call(layer: dict[str, np.ndarray], *setting: int) -> Call:
    arrays = dict(zip(("capacity", "k", "bpr"), settings(setting[0], setting[1], bool(setting[2])), strict=True))
    return node_call("VmoeRouterBlock", layer | arrays, constants=["router"])


def gates_of(layer: dict[str, np.ndarray], outputs: list[np.ndarray]) -> np.ndarray:
    """Return the gates [G,S,E] that the block used.

    `outputs` must contain every expert as a choice of every token. The weight of a choice is the gate of its expert.
    """
    slot, weight, _, expert = outputs
    gates = np.empty_like(weight)
    np.put_along_axis(gates, expert, weight, axis=-1)
    assert (slot >= 0).all()
    return gates
