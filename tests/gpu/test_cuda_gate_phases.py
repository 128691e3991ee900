"""Run the code of the kernel that computes gates, softmax(x . router), on the CPU.

The gates must have the same bits for every order in which the lanes run.
"""

from __future__ import annotations

import ctypes
import platform

import numpy as np
import pytest
from kept_build import kept
from test_cuda_phases import ROOT, at_offset, faultless, pointer

SOURCE = ROOT / "tests" / "cpp" / "cuda_gate_phases.cc"
FEW = 32  # the kernel has a smaller program for up to this number of experts
EXPERTS = (1, 2, 3, 7, 8, 9, 12, 16, 31, 32, 33, 40, 64, 100, 128, 250, 255, 256)
ULP = 2.0**-23
EXP_ERROR = 2 * ULP  # relative
GATE_ERROR = 3e-6  # largest allowed relative error, for logits up to about 8


class GatesCall(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("tokens", "hidden", "experts", "wide", "few", "seed", "lost_distance")),
        *((name, ctypes.c_void_p) for name in ("x", "router", "gates")),
    )


def compiled(name: str, *more: str) -> ctypes.CDLL:
    flags = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", *more]
    return ctypes.CDLL(str(kept(name, "c++", *flags, f"-I{ROOT / 'plugins'}", SOURCE)))


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    return compiled("gate_phases.so", "-ffp-contract=off")


def gates_of(
    library: ctypes.CDLL,
    x: np.ndarray,
    router: np.ndarray,
    seed: int = 1,
    *,
    wide: bool | None = None,
    few: bool | None = None,
    lost_distance: int = 0,
) -> np.ndarray:
    """Compute gates [tokens,E]. If there are faults, fail with the first one.

    By default, `wide` and `few` follow from the sizes.
    """
    tokens, hidden = x.shape
    experts = router.shape[1]
    wide = hidden % 4 == 0 and experts % 4 == 0 if wide is None else wide
    few = experts <= FEW if few is None else few
    x, router = at_offset(x, 0), at_offset(router, 0)
    gates = np.zeros((tokens, experts), np.float32)
    numbers = (tokens, hidden, experts, int(wide), int(few), seed, lost_distance)
    call = GatesCall(*numbers, *map(pointer, (x, router, gates)))
    faultless(library.gates_run, ctypes.byref(call))
    return gates


def exact(x: np.ndarray, router: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        logits = x.astype(np.float64) @ router.astype(np.float64)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)


def case(
    rng: np.random.Generator, tokens: int, hidden: int, experts: int, deviation: float = 0.3
) -> tuple[np.ndarray, np.ndarray]:
    """Return x [tokens,D] and router [D,E]."""
    shapes = ((1, (tokens, hidden)), (deviation, (hidden, experts)))
    x, router = (rng.normal(0, scale, shape).astype(np.float32) for scale, shape in shapes)
    return x, router


@pytest.mark.sample(4)
@pytest.mark.parametrize("experts", EXPERTS)
def test_gates_are_those_of_double_precision_in_any_order(library: ctypes.CDLL, experts: int) -> None:
    for number in range(6):
        rng = np.random.default_rng([experts, number])
        tokens, hidden = int(rng.integers(1, 40)), int(rng.choice([1, 3, 4, 31, 96, 128, 132, 192, 768]))
        x, router = case(rng, tokens, hidden, experts, 0.1)
        gates = gates_of(library, x, router)
        np.testing.assert_allclose(gates, exact(x, router), rtol=GATE_ERROR, atol=1e-37)
        for seed in (2, 3):
            assert gates_of(library, x, router, seed).tobytes() == gates.tobytes()


@pytest.mark.parametrize("experts", [4, 8, 32, 256])
def test_the_bits_of_a_token_depend_on_no_other(library: ctypes.CDLL, experts: int) -> None:
    x, router = case(np.random.default_rng(experts), 23, 64, experts)
    together = gates_of(library, x, router)
    for first, last in ((0, 1), (1, 2), (3, 10), (5, 23)):
        assert gates_of(library, x[first:last], router).tobytes() == together[first:last].tobytes()


@pytest.mark.parametrize("experts", [4, 8, 32])
def test_both_programs_give_the_same_bits(library: ctypes.CDLL, experts: int) -> None:
    x, router = case(np.random.default_rng(experts), 9, 128, experts)
    assert gates_of(library, x, router, few=True).tobytes() == gates_of(library, x, router, few=False).tobytes()


@pytest.mark.parametrize(("hidden", "experts"), [(4, 4), (96, 8), (132, 12), (768, 8), (768, 32), (260, 256)])
def test_words_of_16_bytes_and_of_one_number_give_the_same_bits(library: ctypes.CDLL, hidden: int, experts: int) -> None:
    x, router = case(np.random.default_rng([hidden, experts]), 11, hidden, experts)
    assert gates_of(library, x, router, wide=True).tobytes() == gates_of(library, x, router, wide=False).tobytes()


@pytest.mark.parametrize("experts", [5, 8, 256])
def test_numbers_that_are_none(library: ctypes.CDLL, experts: int) -> None:
    x = np.random.default_rng(experts).normal(0, 1, (7, 32)).astype(np.float32)
    router = np.random.default_rng(1).normal(0, 1, (32, experts)).astype(np.float32)
    x[1, 3], x[2, 4], x[3, 5] = np.nan, np.inf, -np.inf
    x[4] *= 1e4  # one gate is 1, and the others are 0
    x[5] = 0  # all gates are equal
    gates = gates_of(library, x, router)
    assert np.isnan(gates[1:4]).all()
    np.testing.assert_array_equal(gates[4], exact(x, router)[4].round())
    np.testing.assert_allclose(gates[5], 1 / experts, rtol=ULP)
    np.testing.assert_allclose(gates[[0, 6]], exact(x, router)[[0, 6]], rtol=4 * GATE_ERROR, atol=1e-37)


def test_exponentials_of_the_whole_range(library: ctypes.CDLL) -> None:
    x = -np.concatenate([np.linspace(0, 86, 500_001), np.geomspace(1e-30, 86, 500_000)]).astype(np.float32)
    y = np.zeros_like(x)
    library.gates_exp(pointer(x), ctypes.c_int64(x.size), pointer(y))
    np.testing.assert_allclose(y, np.exp(x.astype(np.float64)), rtol=EXP_ERROR)
    ends = np.array([0.0, -0.0, -87, -1e30, -np.inf, np.nan], np.float32)
    library.gates_exp(pointer(ends), ctypes.c_int64(ends.size), pointer(y))
    np.testing.assert_array_equal(y[: ends.size], [1, 1, 0, 0, 0, np.nan])


@pytest.mark.compiles
def test_a_compiler_that_fuses_products_and_sums_where_it_may_gives_the_same_bits(library: ctypes.CDLL) -> None:
    fusing = compiled("fused_gate_phases.so", "-ffp-contract=fast", *["-mfma"] * (platform.machine() == "x86_64"))
    x = -np.linspace(0, 87, 500_001).astype(np.float32)
    apart, fused = np.zeros_like(x), np.ones_like(x)
    for program, y in ((library, apart), (fusing, fused)):
        program.gates_exp(pointer(x), ctypes.c_int64(x.size), pointer(y))
    assert fused.tobytes() == apart.tobytes()


@pytest.mark.parametrize("distance", [1, 2, 4, 8, 16])
def test_an_exchange_between_lanes_that_is_left_out_is_found(library: ctypes.CDLL, distance: int) -> None:
    x, router = case(np.random.default_rng(distance), 8, 128, 8)
    lost = gates_of(library, x, router, lost_distance=distance)
    assert np.abs(lost - exact(x, router)).max() > 0.01
