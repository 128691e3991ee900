"""Capacity arithmetic: the number of slots per expert and group, and the number of tokens that a block merges.

Source: "Scaling Vision with Sparse Mixture of Experts" (arXiv 2106.05974), section 2.3, and `compute_capacity` in the
official `vmoe/moe.py`. The number of slots is computed in double precision and in the official order of operations, because
another order can give another integer. For example, 100 (token, expert) pairs with E=10 and C=1.1 give
11.000000000000002, which is rounded up to 12 slots.
"""

from __future__ import annotations

import math
from typing import Literal

from vmoe_runtime.errors import RoutingError

Rounding = Literal["ceil", "round"]

ROUNDINGS: tuple[Rounding, ...] = ("ceil", "round")
DEFAULT_ROUNDING: Rounding = "ceil"
"""The official default; configs and the option `--rounding` may say otherwise."""


def compute_slots(
    num_pairs: int,
    num_experts: int,
    capacity_ratio: float,
    rounding: Rounding = DEFAULT_ROUNDING,
    multiple_of: int = 1,
) -> int:
    """Return the number of slots per expert and group.

    Args:
        num_pairs: (token, expert) pairs of one group: S * K.
        num_experts: E.
        capacity_ratio: C, the slots of all experts divided by the pairs, before rounding.
        rounding: "ceil" (official default) or "round" (half to even).
        multiple_of: the number of slots is rounded up to a multiple of this number; 1 changes nothing.

    Returns:
        The number of slots c, at least 1.

    Raises:
        RoutingError: the ratio is not a positive finite number, or gives no slot at all.

    Examples:
        >>> compute_slots(100, 10, 1.1)
        12
        >>> compute_slots(197, 8, 0.3, multiple_of=4)
        8
    """
    if not (math.isfinite(capacity_ratio) and capacity_ratio > 0):
        raise RoutingError(f"the capacity ratio must be a positive number, not {capacity_ratio}")
    exact = num_pairs * capacity_ratio / num_experts
    slots = math.ceil(exact) if rounding == "ceil" else round(exact)
    if slots < 1:
        raise RoutingError(
            f"the capacity ratio {capacity_ratio} leaves no slot per expert for {num_pairs} token-expert pairs "
            f"on {num_experts} experts with rounding 'round'; use a larger ratio"
        )
    return slots + -slots % multiple_of


def count_merged(tokens: int, merge: int, prefix: int) -> int:
    """Return the number of tokens of an image that a block merges.

    Args:
        tokens: number of tokens of the image that the block receives.
        merge: maximum number of tokens that each block merges.
        prefix: number of tokens at the front that are never merged. After them, every second token may be merged into
            another token.

    Examples:
        >>> count_merged(50, 100, 1), count_merged(9, 100, 2), count_merged(4, 100, 3)
        (24, 4, 0)
    """
    first, joined = (2, 1) if prefix == 1 else (prefix, prefix + 1)
    return min(merge, tokens // 2, len(range(first, tokens, 2))) if joined < tokens else 0
