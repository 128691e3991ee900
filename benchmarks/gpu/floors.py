"""The least that a kernel can take: the bytes that it has to move, at the rate of the card's memory.

Every input that is needed is read once, every output is written once. Rows of tokens that no expert keeps are not read, nor
are the rows of empty places when results are combined.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from command_line import table
from on_gpu.library import KERNELS, kernel_launches
from on_gpu.shape import TYPE_BYTES, Shape, Type

from gpu.shapes import SETTINGS, SIZES, shape_for, shape_of_kernel

H100_BYTES_PER_SECOND = 3.35e12  # the data sheet of the SXM5 card; a run takes what a copy moves instead
BAR = 1.3  # times its floor, and the time of its launches, is what a kernel may take
ONE_IMAGE_BAR = 0.5  # times what torch takes, for one image
_INDEX_BYTES = 4  # of slot and src
_WIDTHS: tuple[Type, ...] = ("fp32", "bf16")  # float16 moves what bfloat16 moves


class Kept(NamedTuple):
    """Pairs that got a place, and tokens that have at least one of them."""

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
    kept, gate_bytes = kept or balanced(shape), TYPE_BYTES[shape.gate_type]
    routed = shape.pairs * (_INDEX_BYTES + gate_bytes)  # slot and weight
    gates, src = shape.all_tokens * shape.experts * gate_bytes, shape.places * _INDEX_BYTES
    moved = (kept.tokens + shape.places) * shape.row_bytes
    return {
        "Route": gates + routed + src,
        "Dispatch": src + moved,
        "RouteDispatch": gates + routed + moved,
        "Combine": routed + (kept.pairs + shape.all_tokens) * shape.row_bytes,
    }


def bar_seconds(floor: float, launches: int, launch: float) -> float:
    """The longest that a kernel may take: 1.3 times its floor, and its launches at the time of an empty kernel's.

    Example:
        >>> round(bar_seconds(10e-6, 2, 2e-6) * 1e6, 3)
        17.0
    """
    return BAR * floor + launches * launch


def floors_text() -> str:
    """What `--floors` prints: bytes, launches and floors for an H100, from the formulas alone."""
    head = ["kernel", "E", "K", "C", "c", "launches"]
    head += [text for width in ("fp32", "16 bits") for text in (f"MB {width}", "floor µs", f"{BAR} x")]
    lines = []
    for groups, tokens in SIZES:
        rows = []
        for kernel in KERNELS:
            for setting in SETTINGS:
                shapes = [shape_of_kernel(kernel, shape_for(groups, tokens, *setting, type)) for type in _WIDTHS]
                row = [kernel, *map(str, setting), f"{shapes[0].capacity}", f"{kernel_launches(shapes[0])[kernel]}"]
                for moved in (kernel_bytes(shape)[kernel] for shape in shapes):
                    floor = moved / H100_BYTES_PER_SECOND * 1e6
                    row += [f"{moved / 1e6:.3f}", f"{floor:.3f}", f"{BAR * floor:.3f}"]
                rows.append(row)
        lines += [f"### {groups} x {tokens}", "", *table(head, rows), ""]
    return "\n".join(lines)
