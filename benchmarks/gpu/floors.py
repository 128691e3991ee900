"""The least that a kernel can take: the bytes that it has to move, at the rate of the card's memory.

Every input that is needed is read once, every output is written once. Rows of tokens that no expert keeps are not read, nor
are the rows of empty places when results are combined.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpu.shapes import TYPE_BYTES, Shape

KERNELS = ("Route", "Dispatch", "RouteDispatch", "Combine")

H100_BYTES_PER_SECOND = 3.35e12
"""By the data sheet of the SXM5 card with 80 GB of HBM3; a run takes what a copy moves instead."""

BAR = 1.3
"""A kernel may take this times its floor, and the time of its launches."""

ONE_IMAGE_BAR = 0.5
"""For one image a kernel may take this times what torch takes."""

SMALL_PAIRS = 2048
"""S * K of the largest groups that are routed in one launch."""

_INDEX_BYTES = 4  # of slot and src


@dataclass(frozen=True)
class Kept:
    """What a routing keeps.

    Attributes:
        pairs: pairs that got a place.
        tokens: tokens that have at least one of them.
    """

    pairs: int
    tokens: int


def balanced(shape: Shape) -> Kept:
    """What is kept when every expert is chosen equally often and first choices are served first.

    Example:
        >>> balanced(Shape(1, 100, 4, 2, 15)), balanced(Shape(1, 100, 4, 2, 60))
        (Kept(pairs=60, tokens=60), Kept(pairs=200, tokens=100))
    """
    pairs = min(shape.pairs, shape.places)
    return Kept(pairs, min(pairs, shape.all_tokens))


def count_kept(slot: Any) -> Kept:
    """What a routing kept, from slot i32[G,S,K], a torch tensor."""
    kept = slot >= 0
    return Kept(int(kept.sum()), int(kept.any(dim=-1).sum()))


def kernel_bytes(shape: Shape, kept: Kept | None = None) -> Mapping[str, int]:
    """Bytes that each kernel has to move; `kept` defaults to a balanced routing's."""
    kept = kept or balanced(shape)
    gate_bytes = TYPE_BYTES[shape.gate_type]
    gates = shape.all_tokens * shape.experts * gate_bytes
    slot = shape.pairs * _INDEX_BYTES
    weight = shape.pairs * gate_bytes
    src = shape.places * _INDEX_BYTES
    buf = shape.places * shape.row_bytes
    tokens_read = kept.tokens * shape.row_bytes
    return {
        "Route": gates + slot + weight + src,
        "Dispatch": src + tokens_read + buf,
        "RouteDispatch": gates + slot + weight + tokens_read + buf,
        "Combine": slot + weight + kept.pairs * shape.row_bytes + shape.all_tokens * shape.row_bytes,
    }


def kernel_launches(shape: Shape) -> Mapping[str, int]:
    """What each kernel puts on its stream: the nodes of its CUDA graph."""
    small = shape.tokens * shape.choices <= SMALL_PAIRS
    return {"Route": 1 if small else 2, "Dispatch": 1, "RouteDispatch": 1 if small else 3, "Combine": 1}


def floor_seconds(moved: int, bytes_per_second: float) -> float:
    """The time that moving so many bytes takes."""
    return moved / bytes_per_second


def bar_seconds(floor: float, launches: int, launch: float) -> float:
    """The longest that a kernel may take: 1.3 times its floor, and its launches at the time of an empty kernel's.

    Example:
        >>> round(bar_seconds(10e-6, 2, 2e-6) * 1e6, 3)
        17.0
    """
    return BAR * floor + launches * launch
