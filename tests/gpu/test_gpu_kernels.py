"""Run the PTX of the GPU kernels, which nvcc compiles, on an emulator.

Every call must give the reference's bits in any order of threads and blocks, without races and other faults.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter

import pytest
from emulated_calls import problems
from gpu_emulator import SMALL_GRID, build_emulator
from on_gpu.emulator import DIALECTS, Emulator
from on_gpu.kernel_cases import kernel_calls

CALLS, CALLS_PER_PART = 2000, 80
SMALL_GRID_CALLS, REMOVAL_CALLS, NONE = 500, 4000, 10**9
STATEMENTS = {"barrier": "bar.sync", "exchange": "shfl.sync"}
OPS = {"route_dispatch": ["route_dispatch_kernel"], "route": ["route_", "sort_tiles", "rank"], "gates": ["gates_kernel"]}
"""The kernels of the ops that have barriers or exchanges."""


@pytest.fixture(scope="module")
def small_grid() -> Emulator:
    """Return an emulator whose blocks process several groups."""
    return Emulator(build_emulator("small_grid", changes=SMALL_GRID))


@pytest.mark.sample(4)
@pytest.mark.parametrize(("dialect", "part"), list(itertools.product(DIALECTS, range(CALLS // CALLS_PER_PART))))
def test_random_calls_are_the_reference_bit_for_bit_in_any_order(dialect: int, part: int, emulator: Emulator) -> None:
    calls = kernel_calls(emulator.library, 1, CALLS_PER_PART, part * CALLS_PER_PART)
    wrong = [problem for number, call in enumerate(calls) for problem in problems(emulator, call, dialect, seed=number)]
    assert not wrong, "\n".join(wrong[:5])


@pytest.mark.slow
@pytest.mark.parametrize("what", ["barrier", "exchange"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_each_barrier_and_exchange_is_needed(dialect: int, what: str, small_grid: Emulator) -> None:
    small_grid.configure(dialect)
    kernels = [kernel for _, kernel, text in small_grid.statements() if text.startswith(STATEMENTS[what])]
    needless = []
    for index, kernel in enumerate(kernels):
        small_grid.remove(what, index)
        op = next(op for op, names in OPS.items() if any(name in kernel for name in names))
        calls = (call for call in kernel_calls(small_grid.library, 2, REMOVAL_CALLS) if call.op == op)
        if not any(problems(small_grid, call, dialect, orders=[2], seed=index) for call in calls):
            needless.append(f"{what} {index} of {kernel}")
    assert len(kernels) == small_grid.remove(what, NONE)
    assert needless == []


@pytest.mark.slow
@pytest.mark.parametrize("dialect", DIALECTS)
def test_almost_every_instruction_of_the_kernels_is_run(dialect: int, emulator: Emulator, small_grid: Emulator) -> None:
    runs: Counter[tuple[str, int, str]] = Counter()
    for gpu, count in ((emulator, CALLS), (small_grid, SMALL_GRID_CALLS)):
        for call in kernel_calls(gpu.library, 1, count):
            gpu.configure(dialect, processors=call.processors)
            call.run(gpu.library, gpu)
        assert gpu.faults() == []
        places: Counter[str] = Counter()
        for was_run, name, text in gpu.statements():
            kernel = re.sub(r"GLOBAL__N__[0-9a-f]{8}", "", name)  # the builds have different hashes
            runs[kernel, places[kernel], text] += was_run
            places[kernel] += 1
    missed = [statement for statement, count in runs.items() if count == 0]
    assert len(missed) <= 0.015 * len(runs), f"{len(missed)} of {len(runs)}, such as {missed[:20]}"
