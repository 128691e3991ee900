"""The floor of a kernel's time: the bytes that it must move, at the rate of the GPU's memory.

Every required input is read once, and every output is written once. Rows of tokens that no expert keeps are not read, nor
are the rows of empty slots when results are combined.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from on_gpu.shape import Shape

_INDEX_BYTES = 4  # an element of slot or src
_GATE_BYTES = 4


class Kept(NamedTuple):
    """The number of pairs that got a slot, and of tokens with at least one such pair."""

    pairs: int
    tokens: int


def count_kept(slot: Any) -> Kept:
    """Count what a routing kept, given slot i32[G,S,K], a torch tensor."""
    kept = slot >= 0
    return Kept(int(kept.sum()), int(kept.any(dim=-1).sum()))


def kernel_bytes(shape: Shape, kept: Kept) -> Mapping[str, int]:
    """Return the bytes that each kernel must move."""
    routed = shape.pairs * (_INDEX_BYTES + _GATE_BYTES)  # slot and weight
    gates, src = shape.all_tokens * shape.experts * _GATE_BYTES, shape.all_slots * _INDEX_BYTES
    moved = (kept.tokens + shape.all_slots) * shape.row_bytes
    return {
        "Route": gates + routed + src,
        "Dispatch": src + moved,
        "RouteDispatch": gates + routed + moved,
        "Combine": routed + (kept.pairs + shape.all_tokens) * shape.row_bytes,
    }
