"""VmoeRoute and VmoeSparseMlp in the op library: the reference's places, bit for bit, on every CPU path of this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from cpu_paths import outputs_of, run_calls, supported_paths
from op_models import OP_LIBRARY, node_call, run_reference, runner, settings

from vmoe_export.ops.table import OPS
from vmoe_runtime.op_library import find_library

if find_library() is None:
    pytest.skip("this installation has no op library", allow_module_level=True)

GOLDEN = Path(__file__).parent / "data" / "golden"
ROUTE = OPS["VmoeRoute"]
PARTS, CASES_PER_PART = 10, 1000
MOST_PLACES = 2**20  # of src, which a random case makes
INT32_MAX = 2**31 - 1
DENORMAL = np.float32(1e-44)
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, DENORMAL, -DENORMAL, 1e-38, 3e38], np.float32)

Outputs = list[np.ndarray]


@dataclass(frozen=True)
class Case:
    gates: np.ndarray
    capacity: int
    k: int
    bpr: bool

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        numbers = settings(self.capacity, self.k, self.bpr)
        return dict(zip([value.name for value in ROUTE.inputs], [self.gates, *numbers], strict=True))

    def __str__(self) -> str:
        return f"gates{list(self.gates.shape)} capacity {self.capacity} k {self.k} bpr {self.bpr}"


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


def route(case: Case, *, with_src: bool = True) -> Outputs:
    """VmoeRoute by sorting: a pair's place is the number of pairs before it in the queue of its expert."""
    groups, tokens, experts = case.gates.shape
    places = groups * case.capacity
    ranked = np.where(np.isnan(case.gates), np.float32(0), case.gates)
    expert = np.argsort(-ranked, axis=-1, kind="stable")[..., : case.k]
    weight = np.take_along_axis(case.gates, expert, axis=-1)
    slot = np.empty((groups, tokens, case.k), np.int32)
    src = np.full(experts * places if with_src else 0, -1, np.int32)
    for group in range(groups):
        best = ranked[group].max(axis=-1)
        turn = np.argsort(-best, kind="stable") if case.bpr else np.arange(tokens)
        queue = expert[group, turn].T.ravel()  # first choices in turn, then second choices, ...
        by_expert = np.argsort(queue, kind="stable")
        waiting = np.bincount(queue, minlength=experts)
        before = np.empty_like(queue)
        before[by_expert] = np.arange(queue.size) - np.repeat(np.cumsum(waiting) - waiting, waiting)
        flat = np.where(before < case.capacity, queue * places + group * case.capacity + before, -1)
        slot[group, turn] = flat.reshape(case.k, tokens).T
        if with_src:
            src[flat[flat >= 0]] = (group * tokens + np.tile(turn, case.k))[flat >= 0]
    return [slot, weight, src.reshape(experts, -1)]


def same_bits(found: Outputs, expected: Outputs) -> bool:
    return all(
        a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a.view(np.int32), b.view(np.int32))
        for a, b in zip(found, expected, strict=True)
    )


def golden_cases() -> list[Case]:
    with np.load(GOLDEN / "routing.npz") as stored:
        return [
            Case(stored[f"g{number}"][None], raw["capacity"], raw["K"], raw["batch_priority"])
            for number, raw in enumerate(json.loads((GOLDEN / "routing.json").read_text())["cases"])
        ]


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


def make_gates(rng: np.random.Generator, kind: int, shape: tuple[int, int, int]) -> np.ndarray:
    gates = rng.random(shape, np.float32)
    gates /= gates.sum(axis=-1, keepdims=True)
    if kind == 1:  # many ties
        gates = np.round(gates * 8) / 8
    elif kind == 2:  # tokens that repeat
        gates = gates[:, rng.integers(0, max(1, shape[1] // 3), shape[1])]
    elif kind == 3:  # all the same
        gates = np.full(shape, rng.choice([0.25, np.nan, np.inf, -np.inf]), np.float32)
    elif kind == 4:
        gates[rng.random(shape) < 0.2] = np.nan
    elif kind == 5:
        gates = rng.choice(SPECIAL, shape)
    elif kind == 6:  # any bits at all: NaN of every kind, both signs, denormals
        gates = rng.integers(0, 2**32, shape, np.uint32).view(np.float32)
    elif kind == 7:  # neighbours
        gates = np.float32(0.25) + rng.integers(0, 3, shape).astype(np.float32) * np.spacing(np.float32(0.25))
    return np.ascontiguousarray(gates, np.float32)
