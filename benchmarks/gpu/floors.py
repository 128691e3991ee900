"""The least time that a kernel can take, called its floor.

The floor is the number of bytes that the kernel must move, divided by the GPU's memory rate. It assumes that the kernel
reads every required input once and writes every output once. Rows that a kernel does not need to read are not counted:
tokens without a slot and, for combine, empty slots.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from on_gpu.shape import Shape

_INDEX_BYTES = 4  # size of one element of `slot` or `src`
_GATE_BYTES = 4


class Kept(NamedTuple):
    """The number of token-expert pairs that have a slot, and the number of tokens that have at least one slot."""

    pairs: int
    tokens: int


def count_kept(slot: Any) -> Kept:
    """Count the token-expert pairs and the tokens that the routing kept.

    `slot` is a torch tensor, i32[G,S,K].
    """
    kept = slot >= 0
    return Kept(int(kept.sum()), int(kept.any(dim=-1).sum()))


def kernel_bytes(shape: Shape, kept: Kept) -> Mapping[str, int]:
    """Return the bytes that each kernel must move."""
    routed = shape.pairs * (_INDEX_BYTES + _GATE_BYTES)  # slot and weight
    gates, src = shape.all_tokens * shape.experts * _GATE_BYTES, shape.all_slots * _INDEX_BYTES
    moved = (kept.tokens + shape.all_slots) * shape.row_bytes
    return {
        "route": gates + routed + src,
        "dispatch": src + moved,
        "route_dispatch": gates + routed + moved,
        "combine": routed + (kept.pairs + shape.all_tokens) * shape.row_bytes,
    }
