"""VmoeRoute and VmoeSparseMlp in the op library: the reference's places, bit for bit, on every CPU path of this machine."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from cpu_paths import outputs_of, run_calls, supported_paths
from op_models import OP_LIBRARY, node_call, run_reference, runner, settings
from routing_cases import Case, golden_cases, make_gates, route, same_bits

from vmoe_export.ops.table import OPS
from vmoe_runtime.op_library import find_library

if find_library() is None:
    pytest.skip("this installation has no op library", allow_module_level=True)

ROUTE = OPS["VmoeRoute"]
PARTS, CASES_PER_PART = 10, 1000
MOST_PLACES = 2**20  # of src, which a random case makes
INT32_MAX = 2**31 - 1


@pytest.mark.parametrize("part", range(PARTS))
def test_random_cases_are_the_reference_bit_for_bit(part: int) -> None:
    run = runner(OP_LIBRARY, "VmoeRoute")
    wrong = [str(case) for case in cases(part) if not same_bits(run(*case.inputs.values()), route(case))]
    assert not wrong, f"{len(wrong)} of {CASES_PER_PART} cases differ, such as {wrong[:5]}"


@pytest.mark.parametrize("seed", range(6))
def test_thousands_of_tokens_are_the_reference_bit_for_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens, experts = 5000, (8, 33, 64)[seed % 3]
    k = (1, 2, experts)[seed // 2]
    gates = make_gates(rng, seed, (2, tokens, experts))
    for capacity in (1, tokens * k // experts // 2, tokens):
        case = Case(gates, capacity, k, bool(seed % 2))
        assert same_bits(runner(OP_LIBRARY, "VmoeRoute")(*case.inputs.values()), route(case)), case


def test_the_fast_reference_is_the_plain_one() -> None:
    small = [case for case in cases(0) if case.gates.size * case.k < 20_000][:300]
    assert len(small) == 300
    for case in small:
        assert same_bits(route(case), run_reference(ROUTE, *case.inputs.values())), case


def test_the_random_cases_cover_what_they_should() -> None:
    made = list(cases(0))
    assert len(made) == CASES_PER_PART
    for covered in (
        lambda c: np.isnan(c.gates).any(),
        lambda c: np.isnan(c.gates).all(),
        lambda c: np.isposinf(c.gates).any(),
        lambda c: np.isneginf(c.gates).any(),
        lambda c: (np.signbit(c.gates) & (c.gates == 0)).any(),
        lambda c: ((c.gates != 0) & (np.abs(c.gates) < 1e-38)).any(),
        lambda c: len(np.unique(c.gates)) == 1 and c.gates.size > 1,
        lambda c: len(np.unique(c.gates)) < c.gates.size / 4,
        lambda c: c.k == c.gates.shape[2] > 1,
        lambda c: 4 < c.k < c.gates.shape[2],
        lambda c: c.capacity == 1,
        lambda c: c.capacity > 4 * c.gates.shape[1] * c.k,
        lambda c: c.gates.shape[1] == 1,
        lambda c: c.gates.shape[1] > 200,
        lambda c: c.gates.shape[2] == 1,
        lambda c: c.gates.shape[2] > 40,
        lambda c: c.gates.shape[0] == 4,
        lambda c: c.bpr,
        lambda c: not c.bpr,
    ):
        assert sum(map(covered, made)) >= 10


@pytest.mark.parametrize("path", supported_paths())
def test_every_cpu_path_routes_alike(path: str) -> None:
    chosen = [*golden_cases(), *list(cases(PARTS))[::4]]
    found = outputs_of(run_calls([node_call("VmoeRoute", case.inputs) for case in chosen], path))
    wrong = [str(case) for case, outputs in zip(chosen, found, strict=True) if not same_bits(outputs, route(case))]
    assert not wrong, f"{len(wrong)} of {len(chosen)} cases differ, such as {wrong[:5]}"


@pytest.mark.parametrize("path", supported_paths())
def test_a_whole_layer_numbers_places_up_to_the_last_that_int32_has(path: str) -> None:
    rng = np.random.default_rng(5)
    calls, expected = [], []
    for groups, tokens, experts, k in ((1, 1, 1, 1), (3, 7, 5, 2), (1, 50, 8, 8), (2, 9, 33, 3)):
        # A router of ones on its diagonal: logits are the tokens, whole numbers that differ within a token.
        x = rng.permuted(np.tile(np.arange(experts, dtype=np.float32), (groups, tokens, 1)), axis=2)
        weights = [np.zeros(shape, np.float32) for shape in ((experts, 1), (experts, 1, experts), (experts, experts))]
        layer = {"x": x, "router": np.eye(experts, dtype=np.float32), "w1": np.zeros((experts, experts, 1), np.float32)}
        layer |= dict(zip(("b1", "w2", "b2"), weights, strict=True))
        most = INT32_MAX // (groups * experts)
        for capacity in (1, 2, most):
            numbers = dict(zip(("capacity", "k", "bpr"), settings(capacity, k, False), strict=True))
            calls.append(node_call("VmoeSparseMlp", layer | numbers))
            expected.append(route(Case(x, capacity, k, False), with_src=False)[0])
    assert max(slot.max() for slot in expected) > 2_000_000_000
    for (_, slot, _), wanted in zip(outputs_of(run_calls(calls, path)), expected, strict=True):
        np.testing.assert_array_equal(slot, wanted)


def cases(part: int) -> Iterator[Case]:
    rng = np.random.default_rng([2106, part])
    for number in range(CASES_PER_PART):
        large = number % 8 == 0
        groups = int(rng.integers(1, 5))
        tokens = 1 if number % 10 == 5 else int(rng.integers(100, 301) if large else rng.integers(2, 41))
        experts = int(rng.integers(1, 65) if large or number % 16 == 7 else rng.integers(1, 13))
        k = experts if rng.random() < 0.15 else int(rng.integers(1, min(experts, 12) + 1))
        most = MOST_PLACES // (experts * groups)
        even = max(1, tokens * k // experts)
        capacity = most if number % 40 == 3 else int(rng.choice([1, 2, 3, max(1, even // 2), even, tokens, tokens * k + 5]))
        yield Case(make_gates(rng, int(rng.integers(8)), (groups, tokens, experts)), capacity, k, bool(rng.integers(2)))
