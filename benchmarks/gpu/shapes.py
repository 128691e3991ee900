"""The sizes at which kernels are timed."""

from __future__ import annotations

import math
from dataclasses import replace

from on_gpu.shape import TYPES, Shape, Type


def shape_for(groups: int, tokens: int, experts: int, choices: int, ratio: float, type: Type = "fp32") -> Shape:
    """Return the shape whose slots per expert follow from a capacity ratio.

    Examples:
        >>> shape_for(8, 197, 8, 2, 1.05).capacity
        52
    """
    # The same as vmoe_runtime.capacity, which needs the project's packages.
    return Shape(groups, tokens, experts, choices, math.ceil(tokens * choices * ratio / experts), type=type)


SIZES = ((1, 197), (8, 197), (64, 197), (64, 577))
"""Groups x tokens: batches of images of 224 and 384 px with patches of 16, each image routed separately."""

SETTINGS = tuple((experts, choices, ratio) for experts in (8, 32) for choices in (1, 2) for ratio in (0.3, 1.05))
"""E, K and capacity ratio."""


def timed_shapes() -> list[Shape]:
    """Return all timed shapes: those of images, then groups of many tokens."""
    shapes = [
        shape_for(groups, tokens, *setting, type) for groups, tokens in SIZES for setting in SETTINGS for type in TYPES
    ]
    return shapes + [shape_for(1, tokens, 32, 2, 1.05, "bf16") for tokens in (4096, 12608, 65536)]


def shape_of_kernel(kernel: str, shape: Shape) -> Shape:
    """Return a kernel's own shape: routing by itself has no token features."""
    return replace(shape, type="fp32", hidden=0) if kernel == "Route" else shape
