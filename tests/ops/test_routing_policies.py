"""Tests for VmoeRoute and VmoeRouterBlock with a pool and a limit on experts.

In every runtime, their outputs must equal those of the reference.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
from cpu_paths import outputs_of, run_calls, supported_paths
from moe_calls import same_values
from on_gpu.gate_kinds import make_gates
from op_models import OP_LIBRARY, RUNNERS, USUAL, WITH_POLICIES, node_call, normal, run_reference, runner, settings
from policy_cases import policy_cases
from routing_cases import Case, Outputs, route, same_bits

from vmoe_export.ops.table import OPS, POLICIES
from vmoe_export.validation.reference_ops import top_k
from vmoe_runtime.op_library import find_library

EVERY_RUNNER = pytest.mark.parametrize("name", RUNNERS)
EVERYWHERE = pytest.mark.parametrize("name", ["reference", *RUNNERS])
NUM_CASES = 5000
LARGEST_MASS_TOKENS = 131_071


@pytest.mark.sample(1)
@EVERY_RUNNER
def test_random_cases_are_the_reference_bit_for_bit(name: str) -> None:
    wrong = [
        str(case) for case, expected in zip(cases(), answers(), strict=True) if not same_values(run(name, case), expected)
    ]
    assert not wrong, f"{len(wrong)} of {NUM_CASES} cases differ, such as {wrong[:5]}"


@pytest.mark.sample(2)
@pytest.mark.parametrize("path", supported_paths() if find_library() else ())
def test_every_cpu_path_gives_the_bits_of_the_reference(path: str) -> None:
    found = outputs_of(run_calls([node_call("VmoeRoute", case.inputs) for case in cases()], path))
    wrong = [
        str(case)
        for case, expected, outputs in zip(cases(), answers(), found, strict=True)
        if not same_values(outputs, expected)
    ]
    assert not wrong, f"{len(wrong)} of {NUM_CASES} cases differ, such as {wrong[:5]}"


def test_without_policies_the_reference_routes_as_ever() -> None:
    official = [(case, found) for case, found in zip(cases(), answers(), strict=True) if case.is_official]
    assert len(official) > NUM_CASES / 10
    for case, found in official:
        assert same_values(found, route(Case(case.gates, case.capacity, case.k, case.bpr))), case


def test_the_reference_of_validation_keeps_the_same_pairs() -> None:
    for case, (slot, weight, _, expert) in zip(cases(), answers(), strict=True):
        assert same_bits(list(top_k(case.gates, **case.numbers)), [expert, slot >= 0, weight]), case


@EVERYWHERE
def test_a_pool_gives_places_that_one_expert_leaves_to_another(name: str) -> None:
    gates = np.float32([[[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.4, 0.6]], [[0.3, 0.7], [0.6, 0.4], [0.1, 0.9], [0.2, 0.8]]])
    slot, weight, src, expert = run(name, Case(gates, 1, 1, True, True, 2))
    # Each group has two slots. In the first group, expert 0 gets both, and in the second, expert 1 gets both.
    np.testing.assert_array_equal(slot[..., 0], [[0, 1, -1, -1], [-1, -1, 2, 3]])
    np.testing.assert_array_equal(src, [[0, 1], [6, 7]])
    np.testing.assert_array_equal(expert[..., 0], [[0, 0, 0, 1], [1, 0, 1, 1]])
    np.testing.assert_array_equal(weight, gates.max(axis=-1, keepdims=True))


@EVERYWHERE
def test_a_pool_serves_first_choices_before_any_second(name: str) -> None:
    gates = np.float32([[[0.9, 0.1, 0.0], [0.5, 0.3, 0.2], [0.6, 0.4, 0.0]]])
    slot, *_ = run(name, Case(gates, 1, 2, True, True, 3))
    np.testing.assert_array_equal(slot >= 0, [[[True, False]] * 3])
    slot, *_ = run(name, Case(gates, 2, 2, True, True, 3))
    assert (slot >= 0).all()


@EVERYWHERE
def test_a_group_uses_the_experts_of_largest_mass_not_of_most_tokens(name: str) -> None:
    gates = np.float32([[[0.9, 0.0, 0.1], [0.4, 0.35, 0.25], [0.25, 0.4, 0.35], [0.25, 0.4, 0.35], [0.3, 0.3, 0.4]]])
    for pool in (False, True):
        slot, _, src, expert = run(name, Case(gates, 9, 1, False, pool, 1))
        np.testing.assert_array_equal(slot[0, :, 0] >= 0, [True, True, False, False, False])
        np.testing.assert_array_equal(expert[0, :, 0], [0, 0, 1, 1, 2])
        np.testing.assert_array_equal(src[1:], -1)
        slot, *_ = run(name, Case(gates, 9, 1, False, pool, 2))
        np.testing.assert_array_equal(slot[0, :, 0] >= 0, [True, True, True, True, False])


@EVERYWHERE
def test_what_is_no_share_counts_as_none_or_one(name: str) -> None:
    nan, inf = np.nan, np.inf
    # The first choice of the first two tokens is expert 0, because NaN ranks as 0. The first choice of the next two tokens
    # is expert 1, and that of the last token is expert 2.
    gates = np.float32([[[nan, -1.0, -2.0], [-1.0, -2.0, -inf], [-1.0, 0.25, -1.0], [0.0, 3e38, 0.0], [nan, -1.0, inf]]])
    for limit, used in ((1, [1]), (2, [1, 2]), (3, [0, 1, 2])):
        _, _, src, expert = run(name, Case(gates, 9, 1, True, False, limit))
        np.testing.assert_array_equal(expert[0, :, 0], [0, 0, 1, 1, 2])
        np.testing.assert_array_equal(np.flatnonzero((src >= 0).any(axis=1)), used)


@EVERYWHERE
def test_nobody_to_serve_leaves_one_empty_place(name: str) -> None:
    # The first choice of both tokens is expert 0. With a limit of one expert, only pairs with expert 0 can get slots.
    gates = np.float32([[[0.6, 0.4], [0.7, 0.3]]])
    _, _, src, _ = run(name, Case(gates, 1, 2, True, True, 1))
    np.testing.assert_array_equal(src, [[1, 0], [-1, -1]])


@pytest.mark.sample(5)
@EVERY_RUNNER
@pytest.mark.parametrize(("tokens", "experts"), [(577, 8), (577, 32), (40_000, 2), (40_000, 8), (40_000, 32)])
def test_large_masses_choose_the_experts_that_numpy_does(tokens: int, experts: int, name: str) -> None:
    for case, expected in cases_of_large_masses(tokens, experts):
        assert same_values(run(name, case), expected), case


@functools.cache
def cases_of_large_masses(tokens: int, experts: int) -> list[tuple[Case, Outputs]]:
    """Return cases in which the experts' sums of gates are large and nearly equal.

    Each case comes with the reference's outputs.
    """
    rng = np.random.default_rng(tokens + experts)
    gates = make_gates(rng, 0, (1, tokens, experts)) * np.float32(0.01)
    # Each expert is the first choice of the same number of tokens. The gates of these first choices are the same numbers for
    # every expert, except for one number, which differs by a few units of 2**-14.
    each = tokens // experts
    units = rng.integers(16_000, 16_384, each)
    for expert, more in enumerate(rng.permutation(experts)):
        mine = units.copy()
        mine[0] = 15_000 + more // 2
        gates[0, expert * each : (expert + 1) * each, expert] = mine.astype(np.float32) / 2**14
    gates = np.ascontiguousarray(gates[:, rng.permutation(tokens)])
    made = [
        Case(gates, max(1, tokens // experts // 4), 1, True, pool, limit)
        for limit in {1, experts // 2, experts - 1}
        for pool in (False, True)
    ]
    return [(case, route(case)) for case in made]


@pytest.mark.sample(2)
@EVERY_RUNNER
def test_the_largest_mass_that_int32_holds(name: str) -> None:
    gates = np.zeros((1, LARGEST_MASS_TOKENS, 3), np.float32)
    gates[..., 1] = 1
    for limit in (1, 2):
        case = Case(gates, 1000, 2, True, True, limit)
        found = run(name, case)
        np.testing.assert_array_equal((found[2] >= 0).sum(axis=1), [0, 3000, 0])
        assert same_values(found, route(case))


@pytest.mark.sample(6)
@EVERY_RUNNER
@pytest.mark.parametrize("tokens", [4097, 10_000, 46_340])
def test_groups_of_many_tokens_are_served_in_order_everywhere(tokens: int, name: str) -> None:
    rng = np.random.default_rng(tokens)
    for kind in (0, 1):
        gates = make_gates(rng, kind, (1, tokens, 8))
        for bpr in (True, False):
            case = Case(gates, tokens // 16, 2, bpr)
            assert same_bits(runner(name, "VmoeRoute")(*case.inputs.values()), route(case)), case


@EVERY_RUNNER
def test_experts_choose_among_many_tokens_as_the_reference_does(name: str) -> None:
    rng = np.random.default_rng(1)
    for kind in (0, 1):
        gates = make_gates(rng, kind, (1, 10_000, 4))
        capacity = np.array([700], np.int64)
        expected = run_reference(OPS["VmoeChooseTokens"], gates, capacity)
        assert same_bits(runner(name, "VmoeChooseTokens")(gates, capacity), expected)


@EVERY_RUNNER
def test_a_router_block_routes_by_policy_as_the_reference_does_by_the_same_gates(name: str) -> None:
    rng = np.random.default_rng(3)
    wrong = []
    for number in range(40):
        groups, tokens, width, experts = (int(rng.integers(1, high)) for high in (4, 40, 30, 12))
        layer = [normal(rng, *shape) for shape in ((groups, tokens, width), (width,), (width,), (width, experts))]
        _, weight, _, expert = runner(name, "VmoeRouterBlock")(*layer, *settings(tokens, experts, False))
        gates = np.empty_like(weight)
        np.put_along_axis(gates, expert, weight, axis=-1)
        k, limit = int(rng.integers(1, experts + 1)), int(rng.integers(1, experts + 1))
        case = Case(gates, int(rng.integers(1, 9)), k, bool(number % 2), bool(number % 4 < 3), limit)
        found = runner(name, "VmoeRouterBlock", given=WITH_POLICIES)(*layer, *list(case.inputs.values())[1:])
        if not same_values(found, route(case)):
            wrong.append(str(case))
    assert not wrong, f"{len(wrong)} of 40 cases differ, such as {wrong[:3]}"


@pytest.mark.skipif(find_library() is None, reason="this installation has no op library")
@pytest.mark.parametrize("given", [(), ("pool",), ("max_experts",), POLICIES])
def test_each_policy_may_be_left_out_of_a_node_and_so_may_the_output_expert(given: tuple[str, ...]) -> None:
    rng = np.random.default_rng(4)
    gates = make_gates(rng, 0, (2, 30, 6))
    case = Case(gates, 3, 2, True, "pool" in given, 2 if "max_experts" in given else 6)
    inputs = {name: array for name, array in case.inputs.items() if name not in POLICIES or name in given}
    calls = [
        node_call("VmoeRoute", inputs),
        node_call("VmoeRoute", inputs, outputs=("slot", "weight", "src")),
        node_call("VmoeRoute", inputs, constants=given),
    ]
    whole, short, constant = outputs_of(run_calls(calls))
    assert same_bits(whole, route(case))
    assert same_bits(short, route(case)[:3])
    assert same_bits(constant, route(case))


@functools.cache
def cases() -> list[Case]:
    return list(policy_cases(0, NUM_CASES))


@functools.cache
def answers() -> list[Outputs]:
    return [route(case) for case in cases()]


def run(name: str, case: Case) -> Outputs:
    if name == "reference":
        return route(case)
    # Test both forms of a node in the op library: official cases omit the policy inputs, and all other cases have them.
    policies = name != OP_LIBRARY or not case.is_official
    inputs = list(case.inputs.values())
    return runner(name, "VmoeRoute", given=WITH_POLICIES if policies else USUAL)(*(inputs if policies else inputs[:4]))
