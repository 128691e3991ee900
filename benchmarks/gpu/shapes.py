"""The sizes that kernels are timed at, and the ones among them that the bar is set for."""

from __future__ import annotations

import math
from dataclasses import replace

from on_gpu.shape import TYPES, Shape, Type


def shape_for(groups: int, tokens: int, experts: int, choices: int, ratio: float, type: Type = "fp32") -> Shape:
    """The shape whose slots per expert follow from a capacity ratio.

    Example:
        >>> shape_for(8, 197, 8, 2, 1.05).capacity
        52
    """
    # As vmoe_runtime.capacity computes it, which needs the project's packages.
    return Shape(groups, tokens, experts, choices, math.ceil(tokens * choices * ratio / experts), type=type)


SIZES = ((1, 197), (8, 197), (64, 197), (64, 577))
"""Groups x tokens that the bar is set for: batches of images of 224 and 384 px in patches of 16, each routed alone."""

SETTINGS = tuple((experts, choices, ratio) for experts in (8, 32) for choices in (1, 2) for ratio in (0.3, 1.05))
"""E, K and capacity ratio that the bar is set for."""


def bar_shapes() -> list[Shape]:
    """All shapes that the bar is checked at."""
    return [shape_for(groups, tokens, *setting, type) for groups, tokens in SIZES for setting in SETTINGS for type in TYPES]


def sweep_shapes() -> list[Shape]:
    """One size at a time is moved away from 64 images of 224 px, 32 experts, two choices, bfloat16; no bar is set."""
    base = shape_for(64, 197, 32, 2, 1.05, "bf16")
    swept = [replace(base, bpr=False), replace(base, gate_type="bf16")]
    swept += [replace(base, hidden=hidden) for hidden in (192, 384, 1024, 1536)]
    swept += [shape_for(64, 197, experts, 2, 1.05, "bf16") for experts in (4, 64, 128, 256)]
    swept += [shape_for(64, 197, 32, choices, 1.05, "bf16") for choices in (4, 8)]
    swept += [shape_for(64, 197, 32, 2, ratio, "bf16") for ratio in (0.1, 0.5, 2.0)]
    return swept + [shape_for(1, tokens, 32, 2, 1.05, "bf16") for tokens in (4096, 12608, 65536)]


def shape_of_kernel(kernel: str, shape: Shape) -> Shape:
    """Routing alone has no tokens: what a shape says of their type, it then says of the gates."""
    return replace(shape, gate_type=shape.type, hidden=0) if kernel == "Route" else shape


def is_one_image(shape: Shape) -> bool:
    """Whether it is an image of 224 px alone: so small that a kernel's time is its latency, and bytes say nothing."""
    return (shape.groups, shape.tokens) == SIZES[0]
