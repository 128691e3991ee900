"""Random calls of the GPU kernels, with inputs that make an op difficult."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from on_gpu.gate_kinds import GATE_KINDS, make_gates
from on_gpu.kernel_call import Array, KernelCall, Sizes
from on_gpu.library import TILE_PAIRS, Library
from on_gpu.op_calls import combine_call, dispatch_call, gates_call, route_call, route_dispatch_call
from on_gpu.shape import TYPE_BYTES, TYPES, Shape

_USUAL_EXPERTS = (1, 2, 3, 4, 7, 8, 16, 32, 33, 64, 128, 256)
_WIDTHS = (1, 2, 3, 5, 8, 16, 24, 40, 97, 264, 520)
_MOST_SLOTS = 20_000
_MOST_NUMBERS = 150_000  # of dispatched or combined rows
_INT32 = np.iinfo(np.int32)


def kernel_calls(library: Library, seed: int, count: int, first: int = 0) -> Iterator[KernelCall]:
    """Yield `count` random calls of all ops in turn, from number `first` on."""
    for number in range(first, first + count):
        rng = np.random.default_rng([seed, number])
        call = _MAKERS[number % len(_MAKERS)](library, rng, number // len(_MAKERS))
        yield replace(call, what=f"{call.what}, seed {seed}, call {number}")


def _pick(rng: np.random.Generator, *values: Any) -> Any:
    return values[rng.integers(len(values))]


def _routing_shape(rng: np.random.Generator, number: int) -> Shape:
    """Make sizes of every kind. A tenth of the shapes have groups of several tiles."""
    experts = int(rng.integers(1, 257 if number % 12 == 0 else 65)) if number % 3 == 0 else _pick(rng, *_USUAL_EXPERTS)
    choices = int(rng.integers(1, min(experts, 8) + 1))
    if number % 40 == 11:  # several tiles, with as many words of 4 bytes as a row of gates can have
        experts, choices = 255, 5
    groups, tile = int(rng.integers(1, 5)), TILE_PAIRS // choices
    if number % 10 == 1 and experts <= 64 * choices:
        groups = int(rng.integers(1, 4))
        tokens = tile + int(rng.integers(0, 3) if number % 20 == 1 else rng.integers(1, tile + 300))
    elif number % 4 == 0:
        tokens = int(rng.integers(100, min(500, tile)))
    elif number % 25 == 2:
        tokens = int(number % 50 != 2)
    else:
        tokens = tile if number % 30 == 3 else int(rng.integers(1, 80))
    even = max(1, tokens * choices // experts)
    capacity = _pick(rng, 1, 2, max(1, even // 3), even, 2 * even, max(1, tokens), tokens * choices + 5)
    capacity = max(1, min(capacity, _MOST_SLOTS // experts // groups))
    return Shape(groups, tokens, experts, choices, capacity, hidden=0, bpr=bool(rng.integers(2)))


def _gates(rng: np.random.Generator, shape: Shape) -> tuple[Array, str]:
    kind = int(rng.integers(len(GATE_KINDS)))
    return make_gates(rng, kind, (shape.groups, shape.tokens, shape.experts)), f"{GATE_KINDS[kind]} gates"


def _misalignments(rng: np.random.Generator, size: int, *names: str) -> dict[str, int]:
    """Misalign some tensors, whose elements have `size` bytes."""
    return {name: size * _pick(rng, 0, 0, 0, 1, 4) for name in names}


def random_bits(rng: np.random.Generator, rows: int, width: int, size: int) -> Array:
    """Return rows of random bits, in elements of `size` bytes."""
    return rng.integers(0, 256, (rows, width * size), np.uint8).view(f"u{size}")


def _route(library: Library, rng: np.random.Generator, number: int) -> KernelCall:
    shape = _routing_shape(rng, number)
    gates, what = _gates(rng, shape)
    experts = bool(rng.integers(4) != 0)
    return replace(route_call(library, shape, gates, what, experts=experts), misaligned=_misalignments(rng, 4, "gates"))


def _route_dispatch(library: Library, rng: np.random.Generator, number: int) -> KernelCall:
    shape, width, type = _routing_shape(rng, number), _pick(rng, *_WIDTHS), _pick(rng, *TYPES)
    slots = shape.experts * shape.groups
    capacity = max(1, min(shape.capacity, _MOST_NUMBERS // width // slots))
    shape = Shape(shape.groups, shape.tokens, shape.experts, shape.choices, capacity, width, type, shape.bpr)
    gates, what = _gates(rng, shape)
    size = TYPE_BYTES[type]
    x = random_bits(rng, shape.all_tokens, width, size)
    misaligned = _misalignments(rng, 4, "gates") | _misalignments(rng, size, "x", "buf")
    call = route_dispatch_call(library, shape, gates, x, what)
    return replace(call, misaligned=misaligned, processors=_pick(rng, 1, 2, 3, 4))


def random_indices(rng: np.random.Generator, sizes: Sizes, end: int) -> Array:
    """Return random indices below `end`. About every sixth is not an index."""
    found = rng.integers(0, max(1, end), sizes, np.int32)
    wrong = rng.choice(np.array([-1, -1, end, _INT32.max, _INT32.min], np.int32), sizes)
    return np.where((rng.integers(6, size=sizes) == 0) | (end == 0), wrong, found)


def _dispatch(library: Library, rng: np.random.Generator, number: int) -> KernelCall:
    tokens = 0 if rng.integers(20) == 0 else int(rng.integers(1, 300))
    width, type = _pick(rng, *_WIDTHS, 1000, 1032, 4096), _pick(rng, *TYPES)
    slots = min(int(rng.integers(1, 500)), _MOST_NUMBERS // width)
    shape, size = Shape(1, tokens, 1, 1, slots, width, type), TYPE_BYTES[type]
    x = random_bits(rng, tokens, width, size)
    call = dispatch_call(shape, x, random_indices(rng, (slots,), tokens), "any indices")
    return replace(call, misaligned=_misalignments(rng, size, "x", "buf"))


def random_numbers(rng: np.random.Generator, rows: int, width: int, type: str) -> Array:
    """Return numbers of many magnitudes as their bits, among them zeros and the limits of the type."""
    if rng.integers(4) == 0:
        return random_bits(rng, rows, width, TYPE_BYTES[type])
    values = rng.standard_normal((rows, width), np.float32) * np.float32(10.0 ** int(rng.integers(-3, 3)))
    odd = rng.choice(
        np.array([-0.0, 6e4, 65519, 65520, 1e-40, 6e-8, 3e-8, -3e-8, 6.1e-5, 3.3895e38], np.float32), values.shape
    )
    values = np.where(rng.integers(50, size=values.shape) == 0, odd, values)
    if type == "fp16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).view(np.uint16)
    bits = values.view(np.uint32)
    return bits if type == "fp32" else (bits >> 16).astype(np.uint16)


def _combine(library: Library, rng: np.random.Generator, number: int) -> KernelCall:
    type, width = TYPES[number % len(TYPES)], _pick(rng, *_WIDTHS, 768, 1000, 2056)
    slots = 0 if rng.integers(20) == 0 else min(int(rng.integers(1, 300)), _MOST_NUMBERS // width)
    choices = 0 if rng.integers(8) == 0 else int(rng.integers(1, 9))
    tokens = max(1, min(int(rng.integers(1, 300)), _MOST_NUMBERS // 2 // width // max(1, choices)))
    kind = int(rng.integers(len(GATE_KINDS)))
    out, slot = random_numbers(rng, slots, width, type), random_indices(rng, (tokens, choices), slots)
    weight = make_gates(rng, kind, (1, tokens, choices))[0] if choices else np.zeros((tokens, 0), np.float32)
    call = combine_call(Shape(1, tokens, 1, choices, slots, width, type), out, slot, weight, f"{GATE_KINDS[kind]} weights")
    return replace(call, misaligned=_misalignments(rng, TYPE_BYTES[type], "out", "y"))


def _compute_gates(library: Library, rng: np.random.Generator, number: int) -> KernelCall:
    experts = _pick(rng, *_USUAL_EXPERTS) if number % 2 == 0 else int(rng.integers(1, 257 if number % 4 == 1 else 65))
    hidden = _pick(rng, 0, 1, 3, 4, 5, 31, 96, 127, 128, 132, 260, 384)
    tokens = int(rng.integers(1, max(1, min(60, 600_000 // experts // (hidden + 128))) + 1))
    x, router = rng.standard_normal((tokens, hidden), np.float32), rng.standard_normal((hidden, experts), np.float32)
    if rng.integers(4) == 0:  # ties
        x, router = np.sign(np.round(x)), np.sign(np.round(router))
    router *= np.float32(_pick(rng, 0.02, 0.3, 5))
    if rng.integers(6) == 0:
        x[rng.random(x.shape) < 0.01] = _pick(rng, np.nan, np.inf, -np.inf, 1e30, -1e-42)
    if rng.integers(12) == 0:
        chosen = rng.integers(3, size=router.shape) == 0
        router[chosen] = rng.integers(0, 2**32, router.shape, np.uint32).view(np.float32)[chosen]
    misaligned = {"x": _pick(rng, 0, 0, 0, 4), "router": _pick(rng, 0, 0, 0, 8)}
    return replace(gates_call(Shape(1, tokens, experts, 1, 1, hidden), x, router, "softmax"), misaligned=misaligned)


_MAKERS: tuple[Callable[[Library, np.random.Generator, int], KernelCall], ...] = (
    _route,
    _route_dispatch,
    _dispatch,
    _combine,
    _compute_gates,
)
