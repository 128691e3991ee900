"""Run the GPU kernels' code on the CPU.

For every order of threads, its phases must give the same bits as the reference, and they must have no races.
"""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from kept_build import kept
from on_gpu.gate_kinds import make_gates
from op_reference import combine
from routing_cases import Case, golden_cases, route, same_bits
from score import vectors

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
SOURCES = [ROOT / "tests" / "cpp" / "cuda_phases.cc", ROOT / "plugins" / "cuda" / "route_plan.cc"]
SEEDS = (1, 2, 3)
PARTS, CASES_PER_PART = 16, 375
TOKEN_TYPES = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
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

if not shutil.which("c++"):
    pytest.skip("no C++ compiler", allow_module_level=True)


class PhasesCall(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("groups", "tokens", "experts", "choices", "capacity", "batch_priority")),
        *((name, ctypes.c_int64) for name in ("fused", "parts", "rows", "words", "seed")),
        *((name, ctypes.c_int64) for name in ("lost_barrier", "lost_distance")),
        *((name, ctypes.c_void_p) for name in ("gates", "x", "slot", "weight", "src", "expert", "buf")),
    )


class CombineCall(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("type", "wide")),
        *((name, ctypes.c_int64) for name in ("slots", "tokens", "choices", "hidden", "seed")),
        *((name, ctypes.c_void_p) for name in ("out", "slot", "weight", "y")),
    )


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    flags = ["-std=c++17", "-O3", "-fno-semantic-interposition", "-fvisibility-inlines-hidden", "-ffp-contract=off"]
    flags += ["-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    library = ctypes.CDLL(str(kept("phases.so", "c++", *flags, f"-I{ROOT / 'plugins'}", *SOURCES)))
    library.phases_run.restype = ctypes.c_int64
    return library


@pytest.mark.sample(1)
@pytest.mark.parametrize("part", range(PARTS))
def test_random_cases_are_the_reference_bit_for_bit_in_any_order(library: ctypes.CDLL, part: int) -> None:
    for number, case in enumerate(cases(part)):
        left_out = SEEDS[number // 3 % 3]
        check_route(library, case, [seed for seed in SEEDS if seed != left_out])


@pytest.mark.parametrize("number", range(40))
def test_golden_routing_in_any_order(library: ctypes.CDLL, number: int) -> None:
    check_route(library, golden_cases()[number])


@pytest.mark.compiles
def test_conformance_vectors_in_any_order(library: ctypes.CDLL) -> None:
    chosen = [vector for vector in vectors() if "pool" in vector.inputs and "gates" in vector.inputs]
    for vector in chosen:
        gates, *numbers = vector.inputs.values()
        capacity, k, bpr, pool, limit = (int(number[0]) for number in numbers)
        if not pool and limit >= gates.shape[2]:
            expected = [vector.outputs[name] for name in ("slot", "weight", "src", "expert")]
            for seed in SEEDS:
                assert same_bits(run_phases(library, Case(gates, capacity, k, bool(bpr)), seed), expected), vector.name


@pytest.mark.sample(2)
@pytest.mark.parametrize("large", LARGE, ids=str)
def test_tens_of_thousands_of_tokens(library: ctypes.CDLL, large: tuple[int, int, int, int, int | None]) -> None:
    tokens, experts, k, kind, capacity = large
    rng = np.random.default_rng(tokens + kind)
    gates = make_gates(rng, kind, (1, tokens, experts))
    check_route(library, Case(gates, capacity or max(1, tokens * k // experts // 2), k, True))


@pytest.mark.sample(30)
@pytest.mark.parametrize("number", range(60))
def test_route_and_dispatch_in_one(library: ctypes.CDLL, number: int) -> None:
    rng = np.random.default_rng([7, number])
    groups, tokens = int(rng.integers(1, 6)), int(rng.integers(1, 120))
    experts = int(rng.integers(1, 257 if number % 4 == 0 else 20))
    k = int(rng.integers(1, min(experts, 8) + 1))
    gates = make_gates(rng, number % 8, (groups, tokens, experts))
    gates = at_offset(gates, gates.itemsize if number % 5 == 0 else 0)
    capacity = min(int(rng.choice([1, 3, tokens, tokens * k + 9])), 18_500 // experts)
    case = Case(gates, capacity, k, bool(number % 2))
    slot, weight, src, _ = route(case)
    x = rng.integers(0, 2**32, (groups * tokens, 4 * int(rng.integers(1, 80 if experts < 20 else 8))), np.uint32)
    expected = np.where(src.reshape(-1, 1) < 0, np.uint32(0), x[src.reshape(-1)])
    for seed in SEEDS:
        found = run_phases(library, case, seed, x=x, parts=int(rng.integers(1, 6)))
        assert same_bits(found, [slot, weight, expected]), case


@pytest.mark.parametrize("number", range(12))
def test_dispatch(library: ctypes.CDLL, number: int) -> None:
    rng = np.random.default_rng([8, number])
    tokens, slots, words = (int(n) for n in rng.integers(1, 150, 3))
    x = rng.integers(0, 2**32, (tokens, 4 * words), np.uint32)
    src = rng.integers(-1, tokens, slots, np.int32)
    nowhere = rng.random(slots) < 0.1
    src[nowhere] = rng.choice([tokens, 2**31 - 1, -(2**31)], slots)[nowhere]
    buf = np.zeros((slots, 4 * words), np.uint32)
    sizes = map(ctypes.c_int64, (slots, words))
    order = ctypes.c_int64(number)
    faultless(library.phases_dispatch, pointer(x), ctypes.c_int64(tokens), pointer(src), *sizes, pointer(buf), order)
    np.testing.assert_array_equal(buf, np.where(((src < 0) | (src >= tokens))[:, None], np.uint32(0), x[src % tokens]))


@pytest.mark.parametrize("wide", [True, False], ids=["16-byte words", "single elements"])
@pytest.mark.parametrize("dtype", TOKEN_TYPES, ids=str)
def test_combine(library: ctypes.CDLL, dtype: np.dtype, wide: bool) -> None:
    for number in range(8):
        rng = np.random.default_rng([9, number])
        slots, tokens, k = (int(n) for n in rng.integers(1, (60, 60, 5)))
        hidden = int(rng.integers(1, 20)) * (8 if wide else 1) + (0 if wide else number % 2)
        out = rng.normal(0, 1, (slots, hidden)).astype(dtype)
        slot = rng.integers(-1, slots, (tokens, k), np.int32)
        slot[rng.random(slot.shape) < 0.05] = slots + 3  # invalid slots, so these pairs must add nothing
        weight = rng.random((tokens, k), np.float32)
        y = np.zeros((tokens, hidden), dtype)
        sizes = slots, tokens, k, hidden
        call = CombineCall(TOKEN_TYPES.index(dtype), int(wide), *sizes, number, *map(pointer, (out, slot, weight, y)))
        faultless(library.phases_combine, ctypes.byref(call))
        assert y.tobytes() == combine(out[None], np.where(slot < slots, slot, -1)[None], weight[None]).tobytes()


@pytest.mark.sample(6)
@pytest.mark.parametrize(
    ("groups", "tokens", "experts", "k", "fused"),
    [
        (1, 30, 8, 1, False),
        (1, 200, 8, 1, False),
        (1, 300, 64, 4, False),
        (1, 1500, 8, 1, False),
        (1, 30, 8, 1, True),
        (1, 200, 256, 8, True),
        (3, 100, 8, 1, True),  # one block handles several groups
        (3, 100, 32, 4, True),
        (2, 60, 100, 8, True),
        (1, 5000, 8, 1, False),
        (2, 2048, 32, 2, False),
        (3, 600, 128, 8, False),
    ],
)
def test_the_checker_finds_every_barrier_that_is_left_out(
    library: ctypes.CDLL, groups: int, tokens: int, experts: int, k: int, fused: bool
) -> None:
    rng = np.random.default_rng(tokens)
    case = Case(make_gates(rng, 0, (groups, tokens, experts)), max(1, tokens // 20), k, True)
    x = rng.integers(0, 2**32, (groups * tokens, 4), np.uint32) if fused else None
    phases = run_phases(library, case, 1, x=x, rows=1, count_phases=True)
    found = []
    for lost in range(phases):
        try:
            run_phases(library, case, 1, x=x, rows=1, lost_barrier=lost)
        except AssertionError as fault:
            assert "with no barrier between" in str(fault)
            found.append(lost)
    tile = 2048 // k
    tiles = [min(tile, tokens - first) * k for first in range(0, tokens, tile)]
    sorting = [2 + merges(pairs) for pairs in tiles]
    ranking = -(-tokens * k // 256) if len(tiles) > 1 else 0
    assert phases == groups * (sum(sorting) + len(tiles)) + ranking
    # A block's last phase needs no barrier. A group's last phase needs no barrier either, provided that the next group
    # first writes to the buffer that does not contain this group's keys.
    needless = sum(1 if merges(pairs) % 2 else groups for pairs in tiles) + ranking
    assert len(found) == phases - needless


@pytest.mark.parametrize("distance", [1, 2, 4, 8])
def test_the_checker_finds_every_exchange_between_lanes_that_is_left_out(library: ctypes.CDLL, distance: int) -> None:
    case = Case(make_gates(np.random.default_rng(distance), 0, (2, 40, 256)), 9, 2, True)  # 16 lanes a token
    assert same_bits(run_phases(library, case, 1, lost_distance=16), route(case))
    with pytest.raises(AssertionError, match=r"keys\[\d+\] of 80 is written by two threads with no barrier between"):
        run_phases(library, case, 1, lost_distance=distance)


def merges(pairs: int) -> int:
    """Return the number of rounds in which sorted runs are merged.

    At first, each run has 32 keys. Each round merges four runs into one.
    """
    return next(count for count in range(1, 9) if 32 * 4**count >= pairs)


def check_route(library: ctypes.CDLL, case: Case, seeds: Sequence[int] = SEEDS) -> None:
    expected = route(case)
    for seed in seeds:
        assert same_bits(run_phases(library, case, seed), expected), f"{case}, order {seed}"


def run_phases(
    library: ctypes.CDLL,
    case: Case,
    seed: int,
    *,
    x: np.ndarray | None = None,
    parts: int = 1,
    rows: int | None = None,
    lost_barrier: int = -1,
    lost_distance: int = 0,
    count_phases: bool = False,
) -> list[np.ndarray]:
    """Run the kernels' phases on the CPU, and fail with the first fault.

    Without `x`, run Route and return slot, weight, src and expert. With `x`, run RouteDispatch and return slot, weight and
    buf. Each row of `x`, of type uint32, consists of whole 16-byte words.

    If the grid has `rows` rows, each block processes every rows-th group. If `rows` is None, the number of rows depends on
    `seed`. The tests then cover all ways to divide a few groups among blocks.
    """
    groups, tokens, experts = case.gates.shape
    rows = rows or min(seed, groups)
    slot = np.zeros((groups, tokens, case.k), np.int32)
    weight = np.zeros((groups, tokens, case.k), np.float32)
    src = np.zeros((experts, groups * case.capacity), np.int32)
    expert = np.zeros_like(slot)
    words = x.shape[1] // 4 if x is not None else 0
    buf = np.zeros((src.size, 4 * words), np.uint32)
    call = PhasesCall(
        groups, tokens, experts, case.k, case.capacity, int(case.bpr),
        int(x is not None), parts, rows, words, seed, lost_barrier, lost_distance, pointer(case.gates),
        None if x is None else pointer(x), *map(pointer, (slot, weight, src, expert, buf)),
    )  # fmt: skip
    phases = faultless(library.phases_run, ctypes.byref(call))
    if count_phases:
        return phases
    return [slot, weight, src, expert] if x is None else [slot, weight, buf]


def faultless(function: Any, *arguments: Any) -> int:
    """Call a function in the library and return its result. If it reports a fault, fail with the fault's message."""
    fault = ctypes.create_string_buffer(500)
    returned = function(*arguments, fault, ctypes.c_size_t(len(fault)))
    assert fault.value == b"", fault.value.decode()
    return returned


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


def at_offset(array: np.ndarray, offset: int) -> np.ndarray:
    """Copy an array to an address whose remainder modulo 16 is `offset`."""
    memory = np.empty(array.nbytes + 32, np.uint8)
    first = (offset - memory.ctypes.data) % 16
    placed = memory[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
    placed[...] = array
    return placed


def cases(part: int) -> Iterator[Case]:
    rng = np.random.default_rng([2106, 5974, part])
    for number in range(CASES_PER_PART):
        groups = int(rng.integers(1, 5))
        usual = int(rng.choice([8, 16, 32, 64, 128, 256]))
        experts = usual if number % 4 == 0 else int(rng.integers(1, 257 if number % 4 == 1 else 65))
        k = int(rng.integers(1, min(experts, 8) + 1))
        tiled = number % 20 < 2 and experts <= 64 * k  # groups of several tiles
        medium = number % 8 == 2
        low, high = (2049 // k + 1, 4000 // k) if tiled else (150, 700) if medium else (2, 60)
        tokens = 1 if number % 10 == 5 else int(rng.integers(low, high))
        even = max(1, tokens * k // experts)
        capacity = int(rng.choice([1, 2, max(1, even // 3), even, tokens, tokens * k + 5]))
        gates = make_gates(rng, int(rng.integers(8)), (groups, tokens, experts))
        offset = gates.itemsize if number % 5 == 0 else 0
        yield Case(at_offset(gates, offset), capacity, k, bool(rng.integers(2)))
