"""What every kernel must give, bit for bit, in numpy alone: fast enough for groups of 65,536 tokens.

Tensors of any element type are carried as bits: float32 as it is, float16 as numpy has it, bfloat16 as uint16.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu.shapes import Type

Array = np.ndarray[Any, np.dtype[Any]]

BITS: dict[Type, Any] = {"fp32": np.float32, "fp16": np.float16, "bf16": np.uint16}
"""numpy's dtype for the bits of a type."""


def to_float32(bits: Array, type: Type) -> Array:
    """The values of some bits, exactly."""
    if type == "bf16":
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return bits.astype(np.float32)


def from_float32(values: Array, type: Type) -> Array:
    """Bits of the nearest values of a type, ties to even; a NaN stays one.

    Example:
        >>> [hex(bits) for bits in from_float32(np.float32([1.00390625, 1.01171875, np.nan]), "bf16")]
        ['0x3f80', '0x3f82', '0x7fc0']
    """
    if type != "bf16":
        with np.errstate(over="ignore"):
            return values.astype(BITS[type])
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)


def same_bits(first: Array, second: Array) -> Array:
    """Where two arrays of one dtype have the same bits, bool of their shape."""
    unsigned = {2: np.uint16, 4: np.uint32}[first.dtype.itemsize]
    same: Array = np.ascontiguousarray(first).view(unsigned) == np.ascontiguousarray(second).view(unsigned)
    return same


def route(gates: Array, type: Type, capacity: int, k: int, bpr: bool) -> tuple[Array, Array, Array]:
    """VmoeRoute: bits of gates [G,S,E] -> slot i32[G,S,K], bits of weight [G,S,K], src i32[E,G*c].

    A pair's place is the number of pairs that its expert was asked for before it, in the order of service: all first
    choices before any second one; within one, tokens by descending best gate, or as they come.
    """
    num_groups, num_tokens, num_experts = gates.shape
    values = to_float32(gates, type)
    ranked = np.where(np.isnan(values), np.float32(0), values)
    expert = np.argsort(-ranked, axis=2, kind="stable")[..., :k]
    weight = np.take_along_axis(gates, expert, axis=2)
    order = np.argsort(-ranked.max(axis=2) if bpr else np.zeros(gates.shape[:2]), axis=1, kind="stable")
    group = np.arange(num_groups)[:, None, None]
    # In the order of service, [G,K,S]: which expert of which group is asked for a place.
    served_expert = np.take_along_axis(expert, order[..., None], axis=1).transpose(0, 2, 1)
    asked_of = (group * num_experts + served_expert).reshape(-1)
    together = np.argsort(asked_of, kind="stable")
    asked = np.bincount(asked_of, minlength=num_groups * num_experts)
    rank = np.empty(asked_of.size, np.int64)
    rank[together] = np.arange(asked_of.size) - np.repeat(np.cumsum(asked) - asked, asked)
    rank = rank.reshape(served_expert.shape)
    places = num_groups * capacity
    served_slot = np.where(rank < capacity, served_expert * places + group * capacity + rank, -1).astype(np.int32)
    slot = np.empty((num_groups, num_tokens, k), np.int32)
    np.put_along_axis(slot, order[..., None], served_slot.transpose(0, 2, 1), axis=1)
    src = np.full(num_experts * places, -1, np.int32)
    token = np.broadcast_to(group * num_tokens + order[:, None], served_slot.shape)
    src[served_slot[served_slot >= 0]] = token[served_slot >= 0]
    return slot, weight, src.reshape(num_experts, places)


def dispatch(x: Array, src: Array) -> Array:
    """VmoeDispatch: bits of x [G,S,D], src i32[E,M] -> bits of buf [E,M,D], zero where src is -1."""
    rows = x.reshape(-1, x.shape[-1])
    buf: Array = rows[np.maximum(src, 0)]
    buf[src < 0] = 0
    return buf


def combine(out: Array, type: Type, slot: Array, weight: Array, weight_type: Type) -> Array:
    """VmoeCombine: bits of out [E,M,D], slot i32[G,S,K], bits of weight [G,S,K] -> bits of y [G,S,D].

    Products and sums are float32, in the order of the choices; the sum is rounded once.
    """
    rows = out.reshape(-1, out.shape[-1])
    scale = to_float32(weight, weight_type)
    total = np.zeros((*slot.shape[:2], out.shape[-1]), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for choice in range(slot.shape[2]):
            kept = slot[..., choice] >= 0
            product = scale[kept, choice, None] * to_float32(rows[slot[kept, choice]], type)
            # The first product is taken as it is: 0 + -0 would be 0.
            total[kept] = product if choice == 0 else total[kept] + product
    return from_float32(total, type)
