"""Run the PTX of the GPU kernels, which nvcc compiles, on an emulator.

Every call must give the reference's bits in any order of threads and blocks, without races and other faults.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence

import ml_dtypes
import numpy as np
import op_reference
import pytest
from gpu_emulator import DIALECTS, SMALL_GRID, Emulator, build_emulator
from on_gpu.kernel_cases import KernelCall, kernel_calls
from on_gpu.library import DeviceError, Library

ORDERS = (0, 1, 2)
CALLS, CALLS_PER_PART = 2000, 75
SMALL_GRID_CALLS, REMOVAL_CALLS, NONE = 500, 4000, 10**9
STATEMENTS = {"barrier": "bar.sync", "exchange": "shfl.sync"}
OPS = {"route_dispatch": ["route_dispatch_kernel"], "route": ["route_", "sort_tiles", "rank"], "gates": ["gates_kernel"]}
"""The kernels of the ops that have barriers or exchanges."""
TOKEN_TYPES = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}
Array = np.ndarray


@pytest.fixture(scope="module")
def emulator() -> Emulator:
    return Emulator(build_emulator())


@pytest.fixture(scope="module")
def small_grid() -> Emulator:
    """Return an emulator whose blocks process several groups."""
    return Emulator(build_emulator("small_grid", changes=[SMALL_GRID]))


def expected(call: KernelCall, library: Library) -> dict[str, Array]:
    """Return the reference's outputs of a call by name. Some of them may not be outputs of the call."""
    shape, tensors = call.shape, call.inputs
    if call.op in ("route", "route_dispatch"):
        slot, weight, src, expert = op_reference.route(tensors["gates"], shape.capacity, shape.choices, shape.bpr)
        outputs = {"slot": slot, "weight": weight, "src": src, "expert": expert}
        return outputs | ({"buf": dispatched(tensors["x"], src.reshape(-1))} if "x" in tensors else {})
    if call.op == "dispatch":
        return {"buf": dispatched(tensors["x"], tensors["src"])}
    if call.op == "combine":
        out, slot = tensors["out"].view(TOKEN_TYPES[shape.type]), tensors["slot"]
        slot = np.where((slot >= 0) & (slot < len(out)), slot, -1)
        rows = np.concatenate([out, np.zeros((1, out.shape[1]), out.dtype)])
        return {"y": op_reference.combine(rows[None], slot[None], tensors["weight"][None])[0].view(tensors["out"].dtype)}
    gates = np.empty((shape.tokens, shape.experts), np.float32)
    sizes = shape.tokens, shape.hidden, shape.experts
    library.call("gates_on_host", tensors["x"].ctypes.data, tensors["router"].ctypes.data, *sizes, gates.ctypes.data)
    return {"gates": gates}


def dispatched(x: Array, src: Array) -> Array:
    rows = np.concatenate([x, np.zeros((1, x.shape[1]), x.dtype)])
    return rows[np.where((src >= 0) & (src < len(x)), src, len(x))]


def differs(name: str, found: Array, wanted: Array, type: str) -> bool:
    """Return whether two tensors differ in a bit, apart from NaNs that arithmetic made."""
    if found.tobytes() == wanted.tobytes():
        return False
    if name not in ("y", "gates"):
        return True
    numbers = [tensor.view(TOKEN_TYPES[type]).astype(np.float32) for tensor in (found, wanted)]
    bits = [tensor.view(f"u{tensor.itemsize}") for tensor in (found, wanted)]
    return bool(((bits[0] != bits[1]) & ~(np.isnan(numbers[0]) & np.isnan(numbers[1]))).any())


def problems(emulator: Emulator, call: KernelCall, dialect: int, orders: Sequence[int] = ORDERS, seed: int = 0) -> list[str]:
    """Run a call in several orders. Return a message for each fault and each wrong output."""
    with np.errstate(all="ignore"):
        wanted = expected(call, emulator.library)
    found: list[str] = []
    for order in orders:
        emulator.configure(dialect, order, 3 * seed + order, call.processors)
        try:
            outputs, errors = call.run(emulator.library, emulator), list[str]()
        except DeviceError as error:
            outputs, errors = {}, [str(error)]
        wrong = [f"{name} is wrong" for name in outputs if differs(name, outputs[name], wanted[name], call.shape.type)]
        found += [f"{call}, order {order}: {what}" for what in (*emulator.faults(), *errors, *wrong)]
    return found


@pytest.mark.sample(2)
@pytest.mark.parametrize(("dialect", "part"), list(itertools.product(DIALECTS, range(-(-CALLS // CALLS_PER_PART)))))
def test_random_calls_are_the_reference_bit_for_bit_in_any_order(dialect: int, part: int, emulator: Emulator) -> None:
    calls = itertools.islice(kernel_calls(emulator.library, 1, CALLS), part * CALLS_PER_PART, (part + 1) * CALLS_PER_PART)
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
        for place, was_run in enumerate(gpu.statements()):
            kernel = re.sub(r"GLOBAL__N__[0-9a-f]{8}", "", was_run[1])  # the builds have different hashes
            runs[kernel, place, was_run[2]] += was_run[0]
    missed = [statement for statement, count in runs.items() if count == 0]
    assert len(missed) <= 0.015 * len(runs), f"{len(missed)} of {len(runs)}, such as {missed[:20]}"
