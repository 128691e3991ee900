"""The gates that the CUDA op library computes on the CPU, softmax(x . router), with the program that its kernel runs.

test_gpu_kernels.py compares the kernel with them bit for bit.
"""

from __future__ import annotations

import ctypes
import platform
import shutil
from pathlib import Path

import numpy as np
import pytest
from kept_build import kept

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "tests" / "cpp" / "gates_on_host.cc"
EXPERTS = (1, 2, 3, 7, 8, 9, 12, 16, 31, 32, 33, 40, 64, 100, 128, 250, 255, 256)
ULP = 2.0**-23
EXP_ERROR = 2 * ULP  # relative
GATE_ERROR = 3e-6  # largest allowed relative error, for logits up to about 8

if not shutil.which("c++"):
    pytest.skip("no C++ compiler", allow_module_level=True)


def compiled(name: str, *more: str) -> ctypes.CDLL:
    flags = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", *more]
    return ctypes.CDLL(str(kept(name, "c++", *flags, f"-I{ROOT / 'plugins'}", SOURCE)))


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    return compiled("gates_on_host.so", "-ffp-contract=off")


def gates_of(library: ctypes.CDLL, x: np.ndarray, router: np.ndarray) -> np.ndarray:
    """Compute gates [tokens,E]."""
    gates = np.zeros((len(x), router.shape[1]), np.float32)
    library.gates_on_host(pointer(x), pointer(router), *x.shape, router.shape[1], pointer(gates))
    return gates


def exps_of(library: ctypes.CDLL, x: np.ndarray) -> np.ndarray:
    y = np.zeros_like(x)
    library.exp_of_negatives(pointer(x), ctypes.c_int64(x.size), pointer(y))
    return y


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


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
def test_gates_are_those_of_double_precision(library: ctypes.CDLL, experts: int) -> None:
    for number in range(6):
        rng = np.random.default_rng([experts, number])
        tokens, hidden = int(rng.integers(1, 40)), int(rng.choice([1, 3, 4, 31, 96, 128, 132, 192, 768]))
        x, router = case(rng, tokens, hidden, experts, 0.1)
        np.testing.assert_allclose(gates_of(library, x, router), exact(x, router), rtol=GATE_ERROR, atol=1e-37)


@pytest.mark.parametrize("experts", [4, 8, 32, 256])
def test_the_bits_of_a_token_depend_on_no_other(library: ctypes.CDLL, experts: int) -> None:
    x, router = case(np.random.default_rng(experts), 23, 64, experts)
    together = gates_of(library, x, router)
    for first, last in ((0, 1), (1, 2), (3, 10), (5, 23)):
        assert gates_of(library, x[first:last], router).tobytes() == together[first:last].tobytes()


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
    np.testing.assert_allclose(exps_of(library, x), np.exp(x.astype(np.float64)), rtol=EXP_ERROR)
    ends = np.array([0.0, -0.0, -87, -1e30, -np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(exps_of(library, ends), [1, 1, 0, 0, 0, np.nan])


@pytest.mark.compiles
def test_a_compiler_that_fuses_products_and_sums_where_it_may_gives_the_same_bits(library: ctypes.CDLL) -> None:
    fusing = compiled("fused_gates_on_host.so", "-ffp-contract=fast", *["-mfma"] * (platform.machine() == "x86_64"))
    x = -np.linspace(0, 87, 500_001).astype(np.float32)
    assert exps_of(fusing, x).tobytes() == exps_of(library, x).tobytes()
