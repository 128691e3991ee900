"""Run the routing kernels on the emulated GPU with the official router's cases, and with tens of thousands of tokens."""

from __future__ import annotations

import pytest
from emulated_calls import problems
from on_gpu.emulator import DIALECTS, Emulator
from on_gpu.kernel_call import KernelCall
from on_gpu.large_calls import LARGE_GROUPS, LAYERS, LargeCall, large_call
from on_gpu.op_calls import route_call
from on_gpu.shape import Shape
from routing_cases import Case, golden_cases, same_bits
from score import vectors

OUTPUTS = ("slot", "weight", "src", "expert")


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
@pytest.mark.parametrize("large", (*LARGE_GROUPS, *LAYERS), ids=str)
def test_large_calls(emulator: Emulator, large: LargeCall) -> None:
    tokens = large.shape.tokens
    assert problems(emulator, large_call(emulator.library, large), DIALECTS[tokens % 2], orders=[2], seed=tokens) == []
