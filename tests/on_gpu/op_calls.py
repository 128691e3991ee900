"""Calls of each op, made from its inputs. ops.h and kernel_calls.cc define the arguments."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from on_gpu.kernel_call import Array, KernelCall
from on_gpu.library import Library, c_shape
from on_gpu.shape import TYPES, Shape

_INT32, _FLOAT32 = np.dtype(np.int32), np.dtype(np.float32)


def gates_call(shape: Shape, x: Array, router: Array, what: str, misaligned: Mapping[str, int] | None = None) -> KernelCall:
    return KernelCall(
        "gates", shape, what, {"x": x, "router": router}, {"gates": ((shape.all_tokens, shape.experts), _FLOAT32)},
        ("x", "router", shape.all_tokens, shape.hidden, shape.experts, "gates"), misaligned=misaligned or {},
    )  # fmt: skip


def route_call(
    library: Library,
    shape: Shape,
    gates: Array,
    what: str,
    misaligned: Mapping[str, int] | None = None,
    *,
    experts: bool = True,
) -> KernelCall:
    """If `experts` is not set, the call omits the output `expert`."""
    pairs, slots = (shape.groups, shape.tokens, shape.choices), (shape.experts, shape.groups * shape.capacity)
    outputs = {"slot": (pairs, _INT32), "weight": (pairs, _FLOAT32), "src": (slots, _INT32)}
    if experts:
        outputs["expert"] = (pairs, _INT32)
    return KernelCall(
        "route", shape, what, {"gates": gates}, outputs,
        (c_shape(shape), "gates", "slot", "weight", "src", "expert" if experts else 0, "workspace"),
        workspace=library.workspace_bytes(shape, fused=False), misaligned=misaligned or {},
    )  # fmt: skip


def route_dispatch_call(
    library: Library, shape: Shape, gates: Array, x: Array, what: str, misaligned: Mapping[str, int] | None = None
) -> KernelCall:
    pairs = shape.groups, shape.tokens, shape.choices
    return KernelCall(
        "route_dispatch", shape, what, {"gates": gates, "x": x},
        {"slot": (pairs, _INT32), "weight": (pairs, _FLOAT32), "buf": ((shape.all_slots, shape.hidden), x.dtype)},
        (c_shape(shape), "gates", "x", shape.row_bytes, "slot", "weight", "buf", "workspace"),
        workspace=library.workspace_bytes(shape, fused=True), misaligned=misaligned or {},
    )  # fmt: skip


def dispatch_call(shape: Shape, x: Array, src: Array, what: str, misaligned: Mapping[str, int] | None = None) -> KernelCall:
    return KernelCall(
        "dispatch", shape, what, {"x": x, "src": src}, {"buf": ((shape.all_slots, shape.hidden), x.dtype)},
        ("x", shape.all_tokens, "src", shape.all_slots, shape.row_bytes, "buf"), misaligned=misaligned or {},
    )  # fmt: skip


def combine_call(
    shape: Shape, out: Array, slot: Array, weight: Array, what: str, misaligned: Mapping[str, int] | None = None
) -> KernelCall:
    sizes = shape.all_tokens, shape.choices, shape.hidden
    return KernelCall(
        "combine", shape, what, {"out": out, "slot": slot, "weight": weight},
        {"y": ((shape.all_tokens, shape.hidden), out.dtype)},
        (TYPES.index(shape.type), "out", shape.all_slots, "slot", "weight", *sizes, "y"), misaligned=misaligned or {},
    )  # fmt: skip
