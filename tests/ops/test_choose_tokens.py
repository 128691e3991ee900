"""VmoeChooseTokens against the official router (golden cases) and, in every runtime, against the numpy reference."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import pytest
from op_models import RUNNERS, run_reference, runner
from routing_cases import GOLDEN, Outputs, golden_cases, make_gates, same_bits

from vmoe_export.ops.table import OPS

CHOOSE = OPS["VmoeChooseTokens"]
NUM_RANDOM_CASES = 1000
EVERY_IMPLEMENTATION = pytest.mark.parametrize("name", ["reference", *RUNNERS])


@dataclass(frozen=True)
class Choice:
    """Gates f32[G,S,E], and the places that each expert has in a group."""

    gates: np.ndarray
    capacity: int

    def __str__(self) -> str:
        return f"gates{list(self.gates.shape)} capacity {self.capacity}"


@EVERY_IMPLEMENTATION
def test_the_chosen_tokens_are_the_official_ones(name: str) -> None:
    with np.load(GOLDEN / "routing.npz") as stored:
        for number, (case, capacity) in enumerate(zip(golden_cases(), _golden_capacities(), strict=True)):
            slot, _ = choose(name, Choice(case.gates, capacity))
            np.testing.assert_array_equal(slot[0] >= 0, stored[f"ec{number}"])


@pytest.mark.parametrize("name", RUNNERS)
def test_random_choices_equal_the_reference_exactly(name: str) -> None:
    wrong = [
        f"{number}: {case}"
        for number, (case, expected) in enumerate(random_choices())
        if not same_bits(choose(name, case), list(expected))
    ]
    assert not wrong, f"{len(wrong)} of {NUM_RANDOM_CASES} cases differ, such as {wrong[:5]}"


@functools.cache
def random_choices() -> list[tuple[Choice, Outputs]]:
    rng = np.random.default_rng(2202)
    cases = []
    for number in range(NUM_RANDOM_CASES):
        groups = int(rng.integers(1, 4))
        tokens = 1 if number % 25 == 0 else int(rng.integers(2, 40))
        experts = 1 if number % 20 == 1 else int(rng.integers(2, 12))
        capacity = int(rng.choice([1, 2, max(1, tokens // experts), tokens, tokens + 1, 3 * tokens]))
        gates = make_gates(rng, number % 8, (groups, tokens, experts))
        # OpenVINO takes numbers that are almost zero for zeros.
        case = Choice(
            np.where(np.abs(gates) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), gates), gates), capacity
        )
        cases.append((case, choose("reference", case)))
    return cases


def choose(name: str, case: Choice) -> Outputs:
    inputs = (case.gates, np.array([case.capacity], np.int64))
    return run_reference(CHOOSE, *inputs) if name == "reference" else runner(name, CHOOSE.name)(*inputs)


def _golden_capacities() -> list[int]:
    import json

    raw = json.loads((GOLDEN / "routing.json").read_text())["cases"]
    return [case["experts_choice_capacity"] for case in raw]
