"""Calls of each op, made from its inputs. ops.h describes the tensors, and kernel_calls.cc the order of the arguments.

`what` is a fact for messages. Rows of tokens are the bits of their elements, as unsigned integers of their size.
"""

from __future__ import annotations

import numpy as np

from on_gpu.kernel_call import Array, KernelCall
from on_gpu.library import Library, c_shape
from on_gpu.shape import TYPES, Shape

_INT32, _FLOAT32 = np.dtype(np.int32), np.dtype(np.float32)


def gates_call(shape: Shape, x: Array, router: Array, what: str) -> KernelCall:
    """Return a call of gates: x f32[G*S,D], router f32[D,E] -> gates f32[G*S,E]."""
    outputs = {"gates": ((shape.all_tokens, shape.experts), _FLOAT32)}
    arguments = "x", "router", shape.all_tokens, shape.hidden, shape.experts, "gates"
    return KernelCall("gates", shape, what, {"x": x, "router": router}, outputs, arguments)


def route_call(library: Library, shape: Shape, gates: Array, what: str, *, experts: bool = True) -> KernelCall:
    """Return a call of route: gates f32[G,S,E] -> slot i32, weight f32, expert i32, each [G,S,K], and src i32[E,M].

    If `experts` is not set, the call omits the output `expert`.
    """
    pairs, slots = (shape.groups, shape.tokens, shape.choices), (shape.experts, shape.groups * shape.capacity)
    outputs = {"slot": (pairs, _INT32), "weight": (pairs, _FLOAT32), "src": (slots, _INT32)}
    if experts:
        outputs["expert"] = (pairs, _INT32)
    arguments = c_shape(shape), "gates", "slot", "weight", "src", "expert" if experts else 0, "workspace"
    workspace = library.workspace_bytes(shape, fused=False)
    return KernelCall("route", shape, what, {"gates": gates}, outputs, arguments, workspace)


def route_dispatch_call(library: Library, shape: Shape, gates: Array, x: Array, what: str) -> KernelCall:
    """Return a call of route_dispatch: gates f32[G,S,E], x [G*S,D] -> slot i32[G,S,K], weight f32[G,S,K], buf [E*M,D]."""
    pairs = shape.groups, shape.tokens, shape.choices
    outputs = {"slot": (pairs, _INT32), "weight": (pairs, _FLOAT32), "buf": ((shape.all_slots, shape.hidden), x.dtype)}
    arguments = c_shape(shape), "gates", "x", shape.row_bytes, "slot", "weight", "buf", "workspace"
    workspace = library.workspace_bytes(shape, fused=True)
    return KernelCall("route_dispatch", shape, what, {"gates": gates, "x": x}, outputs, arguments, workspace)


def dispatch_call(shape: Shape, x: Array, src: Array, what: str) -> KernelCall:
    """Return a call of dispatch: x [G*S,D], src i32[E*M] -> buf [E*M,D]."""
    outputs = {"buf": ((shape.all_slots, shape.hidden), x.dtype)}
    arguments = "x", shape.all_tokens, "src", shape.all_slots, shape.row_bytes, "buf"
    return KernelCall("dispatch", shape, what, {"x": x, "src": src}, outputs, arguments)


def combine_call(shape: Shape, out: Array, slot: Array, weight: Array, what: str) -> KernelCall:
    """Return a call of combine: out [E*M,D], slot i32[G*S,K], weight f32[G*S,K] -> y [G*S,D]."""
    inputs = {"out": out, "slot": slot, "weight": weight}
    outputs = {"y": ((shape.all_tokens, shape.hidden), out.dtype)}
    sizes = shape.all_tokens, shape.choices, shape.hidden
    arguments = TYPES.index(shape.type), "out", shape.all_slots, "slot", "weight", *sizes, "y"
    return KernelCall("combine", shape, what, inputs, outputs, arguments)
