"""The sizes at which kernels are timed."""

from __future__ import annotations

import math
from dataclasses import replace

from on_gpu.shape import TYPES, Shape, Type


def shape_for(groups: int, tokens: int, experts: int, choices: int, ratio: float, type: Type = "fp32") -> Shape:
    """Return a shape whose number of slots per expert is computed from the capacity ratio `ratio`.

    Examples:
        >>> shape_for(8, 197, 8, 2, 1.05).capacity
        52
    """
    # This line repeats the formula from vmoe_runtime.capacity, because importing vmoe_runtime needs the project's packages.
    return Shape(groups, tokens, experts, choices, math.ceil(tokens * choices * ratio / experts), type=type)


SIZES = ((1, 197), (8, 197), (64, 197), (64, 577))
"""Groups x tokens: batches of images of 224 and 384 px with patches of 16, each image routed separately."""

SETTINGS = tuple((experts, choices, ratio) for experts in (8, 32) for choices in (1, 2) for ratio in (0.3, 1.05))
"""E, K and capacity ratio."""


def timed_shapes() -> list[Shape]:
    """Return all shapes to time. The shapes of image batches come first, followed by single groups of many tokens."""
    shapes = [
        shape_for(groups, tokens, *setting, type) for groups, tokens in SIZES for setting in SETTINGS for type in TYPES
    ]
    return shapes + [shape_for(1, tokens, 32, 2, 1.05, "bf16") for tokens in (4096, 12608, 65536)]


def shape_of_kernel(kernel: str, shape: Shape) -> Shape:
    """Return the shape at which to run a kernel.

    For "route", the shape has no token features, because routing reads only the gates.
    """
    return replace(shape, type="fp32", hidden=0) if kernel == "route" else shape
