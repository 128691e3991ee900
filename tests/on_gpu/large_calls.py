"""Large calls of the GPU kernels: groups of many tokens, many groups, and the layers of a model."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from on_gpu.gate_kinds import GATE_KINDS, make_gates
from on_gpu.kernel_call import KernelCall
from on_gpu.kernel_cases import random_bits, random_indices, random_numbers
from on_gpu.library import Library
from on_gpu.op_calls import combine_call, dispatch_call, gates_call, route_call, route_dispatch_call
from on_gpu.shape import TYPE_BYTES, Shape


class LargeCall(NamedTuple):
    """A call of `op`, by its sizes and the kind of its gates or weights."""

    op: str
    shape: Shape
    kind: str = "random"

    def __str__(self) -> str:
        return f"{self.op} {self.shape}, {self.kind}"


LARGE_GROUPS = (
    LargeCall("route", Shape(1, 40_000, 64, 1, 312, 0)),
    LargeCall("route", Shape(1, 40_000, 8, 2, 5_000, 0), "neighbouring"),
    LargeCall("route", Shape(1, 36_928, 64, 2, 1_212, 0)),
    LargeCall("route", Shape(1, 40_000, 4, 4, 20_000, 0), "tied"),
    LargeCall("route", Shape(1, 20_000, 32, 2, 700, 0), "equal"),  # all tokens prefer the same expert
    LargeCall("route", Shape(1, 20_000, 32, 1, 20_000, 0), "equal"),
    LargeCall("route", Shape(1, 12_608, 32, 4, 1, 0), "partly NaN"),
    LargeCall("route", Shape(1, 9_000, 64, 4, 281, 0), "arbitrary"),
    LargeCall("route", Shape(1, 5_000, 256, 8, 78, 0), "special"),
    LargeCall("route", Shape(1, 65_536, 2, 1, 16_384, 0), "repeated"),
    LargeCall("route", Shape(70_000, 2, 2, 1, 1, 0)),
    LargeCall("route_dispatch", Shape(70_000, 2, 2, 1, 1, 8, "fp16")),  # more groups than a grid has rows
)
"""Calls with groups of many tokens, or with many groups."""

_OPS = ("gates", "route", "route_dispatch", "dispatch", "combine")
LAYERS = (
    *(LargeCall(op, Shape(16, 197, 8, 2, 52, 768, "bf16")) for op in _OPS),
    *(LargeCall(op, Shape(16, 197, 32, 1, 7, 768, "fp16")) for op in _OPS),
    *(LargeCall(op, Shape(1, 3_152, 8, 2, 828, 768)) for op in ("route", "route_dispatch")),  # groups of several tiles
)
"""Calls of all ops with the sizes of a layer of V-MoE B/16, for 16 images in 16 groups or in one."""


def large_call(library: Library, large: LargeCall) -> KernelCall:
    """Return one of the calls above, always with the same inputs."""
    op, shape, kind = large
    rng = np.random.default_rng([shape.tokens, shape.experts])
    tokens, width = shape.all_tokens, shape.hidden
    if op == "gates":
        x, router = rng.standard_normal((tokens, width), np.float32), rng.standard_normal((width, shape.experts), np.float32)
        return gates_call(shape, x, router * np.float32(0.02), kind)
    if op == "combine":
        slot = random_indices(rng, (tokens, shape.choices), shape.all_slots)
        weight = make_gates(rng, GATE_KINDS.index(kind), (1, tokens, shape.choices))[0]
        return combine_call(shape, random_numbers(rng, shape.all_slots, width, shape.type), slot, weight, kind)
    gates = make_gates(rng, GATE_KINDS.index(kind), (shape.groups, shape.tokens, shape.experts))
    if op == "route":
        return route_call(library, shape, gates, kind)
    x = random_bits(rng, tokens, width, TYPE_BYTES[shape.type])
    if op == "route_dispatch":
        return route_dispatch_call(library, shape, gates, x, kind)
    return dispatch_call(shape, x, random_indices(rng, (shape.all_slots,), tokens), kind)
