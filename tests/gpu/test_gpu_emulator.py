"""Test the GPU emulator itself.

It must find the fault of each handwritten kernel, refuse what it does not know, and compute like numpy.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from on_gpu.emulator import Emulator

THREADS, WORDS = 64, 64  # threads of a block; 32-bit words of shared memory and of each buffer
ORDERS = (0, 1, 2)

# In a kernel, %t is the thread, %in and %out are the addresses of two buffers, and %sh is that of shared memory. %mine is
# the thread's place in %out, and %here is its place in shared memory. %a to %d are free.
PROLOGUE = """
.version 9.0 .target sm_80 .address_size 64
.extern .shared .align 16 .b8 sh[];
.entry k(.param .u64 p0, .param .u64 p1) {
.reg .pred %p<4>; .reg .b16 %h<4>; .reg .b32 %t, %a, %b, %c, %d, %sh, %here, %r<10>; .reg .f32 %f<4>;
.reg .b64 %in, %out, %mine, %from, %w<4>;
ld.param.u64 %in, [p0]; ld.param.u64 %out, [p1]; mov.u32 %t, %tid.x; mov.u32 %sh, sh;
mul.wide.u32 %w0, %t, 4; add.s64 %mine, %out, %w0; add.s64 %from, %in, %w0;
cvt.u32.u64 %r0, %w0; add.s32 %here, %sh, %r0; setp.eq.u32 %p0, %t, 0; setp.lt.u32 %p1, %t, 32;
"""

ALL = "0xffffffff"
FAULTLESS = {
    "each thread writes its word": "st.global.u32 [%mine], %t;",
    "words are handed on across a barrier": """
        st.shared.u32 [%here], %t; bar.sync 0; xor.b32 %a, %r0, 252; add.s32 %a, %sh, %a; ld.shared.u32 %b, [%a];
        st.global.u32 [%mine], %b;""",
    "lanes exchange": f"shfl.sync.bfly.b32 %a, %t, 1, 31, {ALL}; st.global.u32 [%mine], %a;",
    "lanes wait for each other": "bar.warp.sync -1; st.global.u32 [%mine], %t;",
    "many threads read one word": "ld.global.nc.u32 %a, [%in+8]; st.global.u32 [%mine], %a;",
    "a thread reads its own word": "st.global.u32 [%mine], %t; ld.global.u32 %a, [%mine]; st.global.u32 [%mine], %a;",
    "a thread loops": """
        mov.u32 %a, 0; $L: add.s32 %a, %a, 1; setp.lt.u32 %p2, %a, %t; @%p2 bra $L; st.global.u32 [%mine], %a;""",
    "two words at once": "shl.b32 %a, %t, 3; ld.global.v2.u32 {%b, %c}, [%in+16]; st.global.u32 [%mine], %c;",
    "a later period may overwrite what others read": """
        st.shared.u32 [%here], %t; bar.sync 0; ld.shared.u32 %a, [%sh]; bar.sync 0; st.shared.u32 [%here], %a;
        st.global.u32 [%mine], %a;""",
}
FAULTS = {
    "out of bounds": {
        "past a buffer": "st.global.u32 [%mine+4], %t;",
        "before a buffer": "ld.global.u32 %a, [%in+-4];",
        "past shared memory": "st.shared.u32 [%here+4], %t;",
        "before shared memory": "ld.shared.u32 %a, [%sh+-4];",
        "the null pointer": "mov.u64 %w1, 0; ld.global.u32 %a, [%w1];",
        "a vector that ends past a buffer": "ld.global.v4.u32 {%a, %b, %c, %d}, [%in+248];",
    },
    "misaligned": {
        "a word": "ld.global.u32 %a, [%in+2];",
        "a vector": "ld.global.v4.u32 {%a, %b, %c, %d}, [%in+8];",
        "shared memory": "st.shared.u32 [%sh+2], %t;",
    },
    "never written": {
        "an output": "ld.global.u32 %a, [%mine];",
        "shared memory": "ld.shared.u32 %a, [%here];",
        "shared memory of the block before": """
            mov.u32 %a, %ctaid.x; setp.ne.u32 %p2, %a, 0; @%p2 bra $L; st.shared.u32 [%here], %t; ret;
            $L: ld.shared.u32 %b, [%here];""",
        "outputs that are missing": "@!%p1 bra $L; st.global.u32 [%mine], %t; $L: ret;",
    },
    "store to an input": {"an input": "st.global.u32 [%from], %t;"},
    "race": {
        "a write and a read": """
            st.shared.u32 [%here], %t; xor.b32 %a, %r0, 128; add.s32 %a, %sh, %a; ld.shared.u32 %b, [%a];""",
        "two writes": "st.shared.u32 [%sh], %t;",
        "two writes of one value": "st.shared.u32 [%sh], 7;",
        "two writes within a warp": "@!%p1 bra $L; st.shared.u32 [%sh], %t; $L: ret;",
        "a word and a half of it": "cvt.u16.u32 %h0, %t; st.shared.u32 [%here], %t; st.shared.u16 [%sh+6], %h0;",
        "two blocks": "st.global.u32 [%mine], %t;",
        "two blocks, one of which reads": "st.global.u32 [%mine], %t; bar.sync 0; ld.global.u32 %a, [%out];",
        "an exchange is no barrier": f"""
            st.shared.u32 [%here], %t; shfl.sync.bfly.b32 %a, %t, 1, 31, {ALL}; xor.b32 %a, %r0, 4; add.s32 %a, %sh, %a;
            ld.shared.u32 %b, [%a];""",
        "a barrier of each warp is none of the block": """
            st.shared.u32 [%here], %t; bar.warp.sync -1; xor.b32 %a, %r0, 128; add.s32 %a, %sh, %a;
            ld.shared.u32 %b, [%a];""",
    },
    "non-coherent load": {
        "of what was written before": "st.global.u32 [%mine], %t; ld.global.nc.u32 %a, [%mine];",
        "of what is written after": """
            st.global.u32 [%mine], 1; bar.sync 0; ld.global.nc.u32 %a, [%mine]; st.global.u32 [%mine], 2;""",
    },
    "exchange": {
        "half of the lanes have exited": f"""
            and.b32 %a, %t, 1; setp.ne.u32 %p2, %a, 0; @%p2 bra $L; shfl.sync.bfly.b32 %b, %t, 1, 31, {ALL}; $L: ret;""",
        "lanes are not in their mask": "shfl.sync.bfly.b32 %a, %t, 1, 31, 0x0000ffff;",
        "lanes have different masks": "and.b32 %a, %t, 1; or.b32 %a, %a, 0xfffffffe; shfl.sync.bfly.b32 %b, %t, 1, 31, %a;",
        "lanes are at different exchanges": f"""
            and.b32 %a, %t, 1; setp.ne.u32 %p2, %a, 0; @%p2 bra $L; shfl.sync.bfly.b32 %b, %t, 1, 31, {ALL}; bra $E;
            $L: shfl.sync.bfly.b32 %b, %t, 1, 31, {ALL}; $E: ret;""",
    },
    "barrier": {
        "half of the threads have exited": "@%p1 bra $L; bar.sync 0; $L: ret;",
        "one thread has exited": "@%p0 bra $L; bar.sync 0; $L: ret;",
        "lanes wait at two barriers": """
            and.b32 %a, %t, 1; setp.ne.u32 %p2, %a, 0; @%p2 bra $L; bar.sync 0; ret; $L: bar.sync 0;""",
    },
    "division by zero": {
        "a quotient": "div.u32 %a, %t, %t;",
        "a remainder of 64 bits": "sub.s64 %w1, %in, %in; rem.u64 %w2, %in, %w1;",
    },
    "endless": {"a loop": "$L: @%p0 bra $L;"},
}  # fmt: skip
REFUSED = {
    "an unknown instruction": "sin.approx.f32 %f0, %f1;",
    "an approximation": "div.approx.f32 %f0, %f1, %f2;",
    "another rounding": "add.rz.f32 %f0, %f1, %f2;",
    "flushing of denormals": "mul.rn.ftz.f32 %f0, %f1, %f2;",
    "a barrier of some threads": "bar.sync 1, 32;",
    "an atomic": "atom.global.add.u32 %a, [%in], 1;",
    "an unknown register": "add.s32 %a, %b, %z;",
    "a missing label": "bra $NOWHERE;",
    "too few operands": "add.s32 %a, %b;",
    "a conditional store": "@%p0 st.global.u32 [%mine], %t;",
    "a volatile load": "ld.volatile.global.u32 %a, [%in];",
    "local memory": "ld.local.u32 %a, [%in];",
    "a store to a special register": "mov.u32 %tid.x, 1;",
    "a call": "call.uni f, (%a);",
    "an exchange of another kind": "shfl.sync.idx.b32 %a, %t, 1, 31, 0xffffffff;",
    "memory past the parameters": "ld.param.u64 %w1, [p1+8];",
}


def run(emulator: Emulator, body: str, *, grid: int = 1) -> tuple[list[str], np.ndarray]:
    """Run a kernel with this body, and return the faults and the output buffer. All words of the input are 7."""
    assert emulator.read_module(PROLOGUE + body + "\nret; }") == ""
    source, result = np.full(WORDS, 7, np.uint32), np.zeros(WORDS, np.uint32)
    at = [emulator.allocate(4 * WORDS) for _ in range(2)]
    emulator.library.call("copy", at[0], source.ctypes.data, source.nbytes)
    emulator.seal(at[0])
    is_done = emulator.launch("k", THREADS, at, grid=grid, shared=4 * WORDS)
    if is_done:
        emulator.library.call("copy", result.ctypes.data, at[1], result.nbytes)
    return emulator.faults(), result


@pytest.mark.parametrize("order", ORDERS)
def test_kernels_without_a_fault_have_none(order: int, emulator: Emulator) -> None:
    for name, body in FAULTLESS.items():
        emulator.configure(80, order, 5)
        faults, result = run(emulator, body)
        assert faults == [], name
        others = {"lanes exchange": np.arange(64) ^ 1, "words are handed on across a barrier": np.arange(64) ^ 63}
        if name in others:
            assert result.tolist() == others[name].tolist(), name


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, bodies in FAULTS.items() for name in bodies])
def test_the_fault_of_a_kernel_is_found(kind: str, name: str, order: int, emulator: Emulator) -> None:
    emulator.configure(80, order, 5)
    faults, _ = run(emulator, FAULTS[kind][name], grid=2 if "block" in name else 1)
    assert any(fault.startswith(f"{kind}: ") for fault in faults), faults


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_unknown_is_refused_when_a_module_is_read(name: str, emulator: Emulator) -> None:
    assert emulator.read_module(PROLOGUE + REFUSED[name] + "\nret; }") != ""


@pytest.mark.parametrize(
    ("threads", "shared", "grid"), [(1025, 0, 1), (0, 0, 1), (32, 48 * 1024 + 4, 1), (32, 0, 0), (32, 0, 1 << 31)]
)
def test_launches_that_a_gpu_refuses_are_faults(threads: int, shared: int, grid: int, emulator: Emulator) -> None:
    assert emulator.read_module(PROLOGUE + "ret; }") == ""
    assert not emulator.launch("k", threads, [0, 0], grid=grid, shared=shared)
    (fault,) = emulator.faults()
    assert fault.startswith("refused launch: ")


Reference = Callable[..., Any]
INTEGERS: dict[str, Reference] = {
    "add.s32": lambda a, b, c: a + b,
    "sub.s32": lambda a, b, c: a - b,
    "mul.lo.s32": lambda a, b, c: a * b,
    "mad.lo.s32": lambda a, b, c: a * b + c,
    "min.u32": lambda a, b, c: min(a, b),
    "max.u32": lambda a, b, c: max(a, b),
    "max.s32": lambda a, b, c: max(signed(a), signed(b)),
    "min.s32": lambda a, b, c: min(signed(a), signed(b)),
    "and.b32": lambda a, b, c: a & b,
    "or.b32": lambda a, b, c: a | b,
    "xor.b32": lambda a, b, c: a ^ b,
    "not.b32": lambda a, b, c: ~a,
    "neg.s32": lambda a, b, c: -a,
    "popc.b32": lambda a, b, c: bin(a).count("1"),
    "div.u32": lambda a, b, c: a // b,
    "rem.u32": lambda a, b, c: a % b,
}
SOURCES = {"not.b32": 1, "neg.s32": 1, "popc.b32": 1, "mad.lo.s32": 3}
COMPARISONS: dict[str, Reference] = {
    "lt.u32": lambda a, b: a < b,
    "le.u32": lambda a, b: a <= b,
    "gt.u32": lambda a, b: a > b,
    "ge.u32": lambda a, b: a >= b,
    "lt.s32": lambda a, b: signed(a) < signed(b),
    "gt.s32": lambda a, b: signed(a) > signed(b),
    "eq.s32": lambda a, b: a == b,
    "ne.s32": lambda a, b: a != b,
    "lt.f32": lambda a, b: number(a) < number(b),
    "le.f32": lambda a, b: number(a) <= number(b),
    "gt.f32": lambda a, b: number(a) > number(b),
    "ge.f32": lambda a, b: number(a) >= number(b),
    "eq.f32": lambda a, b: number(a) == number(b),
    "neu.f32": lambda a, b: number(a) != number(b),
    "nan.f32": lambda a, b: np.isnan(number(a)) or np.isnan(number(b)),
}


def signed(bits: int) -> int:
    return ctypes.c_int32(bits).value


def number(bits: int) -> np.float32:
    return np.uint32(bits).view(np.float32)


def draw(rng: np.random.Generator) -> np.ndarray:
    """Return random words, in which equal, small and special ones are frequent."""
    special = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1, -1, 2**31, -(2.0**31), 3e9, 1e-40, 65504, 65520], np.float32)
    kinds = [
        rng.integers(0, 2**32, WORDS, np.uint32),
        rng.integers(0, 4, WORDS, np.uint32),
        rng.choice(special, WORDS).view(np.uint32),
        (rng.standard_normal(WORDS) * 10.0 ** rng.integers(-9, 9, WORDS)).astype(np.float32).view(np.uint32),
    ]
    return np.choose(rng.integers(len(kinds), size=WORDS), kinds)


def compute(emulator: Emulator, statements: str, *sources: np.ndarray) -> np.ndarray:
    """Run statements on each element: from the registers %a, %b and %c to %d."""
    loads = "".join(f"ld.global.u32 %{'abc'[i]}, [%from+{4 * WORDS * i}];" for i in range(len(sources)))
    body = f"{loads} mov.b32 %f0, %a; mov.b32 %f1, %b; mov.b32 %f2, %c; {statements} st.global.u32 [%mine], %d; ret; }}"
    assert emulator.read_module(PROLOGUE + body) == ""
    result, values = np.zeros(WORDS, np.uint32), np.concatenate(sources)
    at = [emulator.allocate(values.nbytes), emulator.allocate(result.nbytes)]
    emulator.library.call("copy", at[0], values.ctypes.data, values.nbytes)
    assert emulator.launch("k", THREADS, at)
    emulator.library.call("copy", result.ctypes.data, at[1], result.nbytes)
    assert emulator.faults() == []
    return result


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_are_computed_as_python_does(name: str, emulator: Emulator) -> None:
    rng = np.random.default_rng(3)
    operands = ", ".join(("%a", "%b", "%c")[: SOURCES.get(name, 2)])
    for _ in range(20):
        a, b, c = (draw(rng) for _ in range(3))
        b = np.maximum(b, 1) if name in ("div.u32", "rem.u32") else b
        wanted = [INTEGERS[name](*map(int, row)) & 0xFFFFFFFF for row in zip(a, b, c, strict=True)]
        assert compute(emulator, f"{name} %d, {operands};", a, b, c).tolist() == wanted


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons_are_those_of_numpy(name: str, emulator: Emulator) -> None:
    rng = np.random.default_rng(4)
    operands = "%f0, %f1" if name.endswith("f32") else "%a, %b"
    for _ in range(20):
        a, b = draw(rng), draw(rng)
        b = np.where(rng.integers(4, size=WORDS) == 0, a, b)
        wanted = [int(COMPARISONS[name](int(x), int(y))) for x, y in zip(a, b, strict=True)]
        assert compute(emulator, f"setp.{name} %p2, {operands}; selp.u32 %d, 1, 0, %p2;", a, b).tolist() == wanted


FLOATS: dict[str, Reference] = {
    "add.rn.f32 %f3, %f0, %f1;": lambda a, b, c: a + b,
    "sub.rn.f32 %f3, %f0, %f1;": lambda a, b, c: a - b,
    "mul.rn.f32 %f3, %f0, %f1;": lambda a, b, c: a * b,
    "div.rn.f32 %f3, %f0, %f1;": lambda a, b, c: a / b,
    "fma.rn.f32 %f3, %f0, %f1, %f2;": lambda a, b, c: a.astype(np.longdouble) * b + c,
    "max.f32 %f3, %f0, %f1;": lambda a, b, c: np.fmax(a, b),
    "abs.f32 %f3, %f0;": lambda a, b, c: np.abs(a),
    "neg.f32 %f3, %f0;": lambda a, b, c: -a,
    "cvt.rn.f16.f32 %h0, %f0; cvt.f32.f16 %f3, %h0;": lambda a, b, c: a.astype(np.float32).astype(np.float16),
}


@pytest.mark.parametrize("statements", FLOATS)
def test_floats_are_rounded_once_from_higher_precision(statements: str, emulator: Emulator) -> None:
    rng = np.random.default_rng(5)
    for _ in range(40):
        a, b, c = (draw(rng) for _ in range(3))
        found = compute(emulator, f"{statements} mov.b32 %d, %f3;", a, b, c).view(np.float32)
        with np.errstate(all="ignore"):
            numbers = (x.view(np.float32).astype(np.float64) for x in (a, b, c))
            wanted = FLOATS[statements](*numbers).astype(np.float32)
        np.testing.assert_array_equal(found, wanted)


def test_conversions_to_int_and_bfloat16_are_those_of_the_manual(emulator: Emulator) -> None:
    rng = np.random.default_rng(6)
    for _ in range(40):
        bits = draw(rng)
        numbers = bits.view(np.float32).astype(np.float64)
        whole = np.trunc(np.clip(np.nan_to_num(numbers, nan=0), -(2.0**31), 2.0**31 - 1)).astype(np.int32)
        assert compute(emulator, "cvt.rzi.s32.f32 %d, %f0;", bits).tolist() == whole.view(np.uint32).tolist()
        rounded = (bits.astype(np.uint64) + 0x7FFF + (bits >> 16 & 1)) >> 16
        wanted = np.where(np.isnan(numbers), 0x7FFF, rounded)
        found = compute(emulator, "cvt.rn.bf16.f32 %h0, %f0; cvt.u32.u16 %d, %h0;", bits)
        assert found.tolist() == wanted.tolist()


def test_shifts_inserts_and_halves(emulator: Emulator) -> None:
    rng = np.random.default_rng(7)
    for _ in range(20):
        a, b = (rng.integers(0, 2**32, WORDS, np.uint32) for _ in range(2))
        shift, length = (rng.integers(0, 40, WORDS).astype(np.uint32) for _ in range(2))
        rows = list(zip(map(int, a), map(int, b), map(int, shift), strict=True))
        left = [x << s & 0xFFFFFFFF if s < 32 else 0 for x, _, s in rows]
        assert compute(emulator, "shl.b32 %d, %a, %b;", a, shift).tolist() == left
        assert compute(emulator, "shr.u32 %d, %a, %b;", a, shift).tolist() == [x >> s if s < 32 else 0 for x, _, s in rows]
        arithmetic = [signed(x) >> min(s, 31) & 0xFFFFFFFF for x, _, s in rows]
        assert compute(emulator, "shr.s32 %d, %a, %b;", a, shift).tolist() == arithmetic
        both = "mov.b64 %w1, {%a, %b}; mov.b64 {%c, %d}, %w1; add.s32 %d, %c, %d;"
        assert compute(emulator, both, a, b).tolist() == ((a + b) & 0xFFFFFFFF).tolist()
        mask = [(((1 << int(n)) - 1) << int(s)) & 0xFFFFFFFF for s, n in zip(shift, length, strict=True)]
        inserted = [(y & ~m) | (x << s & m) for (x, y, s), m in zip(rows, mask, strict=True)]
        bfi = "shr.u32 %r1, %c, 8; and.b32 %r2, %c, 255; bfi.b32 %d, %a, %b, %r1, %r2;"
        assert compute(emulator, bfi, a, b, shift << 8 | length).tolist() == inserted


def test_bytes_are_permuted(emulator: Emulator) -> None:
    rng = np.random.default_rng(8)
    a, b, selector = (rng.integers(0, 2**32, WORDS, np.uint32) for _ in range(3))
    wanted = []
    for x, y, s in zip(a, b, selector, strict=True):
        source = x.tobytes() + y.tobytes()
        chosen = [int(s) >> 4 * i & 15 for i in range(4)]
        wanted.append(int.from_bytes([source[c & 7] if c < 8 else 255 * (source[c & 7] >> 7) for c in chosen], "little"))
    assert compute(emulator, "prmt.b32 %d, %a, %b, %c;", a, b, selector).tolist() == wanted


def test_halves_are_rounded_towards_zero(emulator: Emulator) -> None:
    values = np.abs(draw(np.random.default_rng(9)).view(np.float32))
    values = np.where(np.isfinite(values) & (values < 65504), values, np.float32(1.0009))
    found = compute(emulator, "cvt.rz.f16.f32 %h0, %f0; cvt.f32.f16 %f3, %h0; mov.b32 %d, %f3;", values.view(np.uint32))
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)  # all that are not negative
    assert found.view(np.float32).tolist() == halves[np.searchsorted(halves, values, "right") - 1].tolist()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("st.global.u32 [%mine], %t;", {"requests": 2, "bytes": 256, "sectors": 8, "distinct_sectors": 8}),
        ("ld.global.u32 %a, [%in];", {"requests": 2, "bytes": 256, "sectors": 2, "distinct_sectors": 1}),
        ("and.b32 %a, %t, 3; mul.wide.u32 %w1, %a, 64; add.s64 %w1, %in, %w1; ld.global.u32 %b, [%w1];", {"sectors": 8}),
        ("st.shared.u32 [%here], %t;", {"requests": 0, "shared_requests": 2, "shared_cycles": 2, "conflicts": 0}),
        ("ld.shared.u32 %a, [%sh];", {"shared_cycles": 2, "conflicts": 0}),  # all lanes read one word
        ("and.b32 %a, %t, 1; shl.b32 %a, %a, 7; add.s32 %a, %sh, %a; ld.shared.u32 %b, [%a];", {"conflicts": 2}),
        ("and.b32 %a, %r0, 120; add.s32 %a, %sh, %a; ld.shared.u64 %w1, [%a];", {"shared_cycles": 4, "conflicts": 0}),
    ],
)
def test_costs_are_those_of_the_addresses(body: str, expected: dict[str, int], emulator: Emulator) -> None:
    emulator.count_costs(True)
    run(emulator, body)
    found = emulator.costs()["k"]
    emulator.count_costs(False)
    assert {name: found[name] for name in expected} == expected
    assert found["threads"] == THREADS


def test_a_launch_counts_a_sector_once(emulator: Emulator) -> None:
    emulator.count_costs(True)
    run(emulator, "ld.global.u32 %a, [%in];", grid=2)
    found = emulator.costs()["k"]
    emulator.count_costs(False)
    assert (found["sectors"], found["distinct_sectors"], found["launch_sectors"]) == (4, 2, 1)
