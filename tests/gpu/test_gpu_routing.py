"""Run the routing kernels on the emulated GPU with the official router's cases, and with tens of thousands of tokens."""

from __future__ import annotations

import numpy as np
import pytest
from emulated_calls import problems
from gpu_emulator import DIALECTS, Emulator
from on_gpu.gate_kinds import GATE_KINDS, make_gates
from on_gpu.kernel_cases import KernelCall, route_call
from on_gpu.shape import Shape
from routing_cases import Case, golden_cases, same_bits
from score import vectors

OUTPUTS = ("slot", "weight", "src", "expert")
LARGE = (  # tokens, experts, k, kind of gates, capacity (None: half of an even share)
    (40_000, 64, 1, 0, None),
    (40_000, 8, 2, 7, None),
    (36_928, 64, 2, 0, 1212),
    (40_000, 4, 4, 1, 20_000),
    (20_000, 32, 2, 3, 700),  # all tokens prefer the same expert
    (20_000, 32, 1, 3, 20_000),
    (12_608, 32, 4, 4, 1),
    (9_000, 64, 4, 6, None),
    (5_000, 256, 8, 5, None),
    (65_536, 2, 1, 2, None),
)


def call_of(emulator: Emulator, case: Case) -> KernelCall:
    groups, tokens, experts = case.gates.shape
    return route_call(emulator.library, Shape(groups, tokens, experts, case.k, case.capacity, bpr=case.bpr), case.gates, "")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_official_router_s_cases(emulator: Emulator, dialect: int) -> None:
    wrong = [problem for case in golden_cases() for problem in problems(emulator, call_of(emulator, case), dialect)]
    assert wrong == []


@pytest.mark.compiles
def test_conformance_vectors(emulator: Emulator) -> None:
    count = 0
    for vector in vectors():
        if "pool" not in vector.inputs or "gates" not in vector.inputs:
            continue
        gates, *numbers = vector.inputs.values()
        case = Case(gates, *(int(number[0]) for number in numbers))
        if case.is_official:
            emulator.configure(DIALECTS[0])
            outputs = call_of(emulator, case).run(emulator.library, emulator)
            expected = [vector.outputs[name] for name in OUTPUTS]
            assert same_bits([outputs[name] for name in OUTPUTS], expected), vector.name
            count += 1
    assert emulator.faults() == []
    assert count > 10


@pytest.mark.sample(2)
@pytest.mark.parametrize("large", LARGE, ids=str)
def test_tens_of_thousands_of_tokens(emulator: Emulator, large: tuple[int, int, int, int, int | None]) -> None:
    tokens, experts, k, kind, capacity = large
    gates = make_gates(np.random.default_rng(tokens + kind), kind, (1, tokens, experts))
    shape = Shape(1, tokens, experts, k, capacity or max(1, tokens * k // experts // 2))
    call = route_call(emulator.library, shape, gates, GATE_KINDS[kind])
    assert problems(emulator, call, DIALECTS[tokens % 2], orders=[2], seed=tokens) == []
