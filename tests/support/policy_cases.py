"""Random routing cases with a pool and with a limit on the number of experts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from on_gpu.gate_kinds import make_gates
from routing_cases import Case

NUM_SHAPES = 300
MOST_PLACES = 2**16  # largest size that src may have in a random case


def policy_cases(seed: int, count: int) -> Iterator[Case]:
    rng = np.random.default_rng([11, seed])
    # Use only a few shapes, because runtimes compile code for each new shape.
    shapes = [_random_shape(rng, number) for number in range(NUM_SHAPES)]
    for _ in range(count):
        groups, tokens, experts, k = shapes[int(rng.integers(NUM_SHAPES))]
        even = max(1, tokens * k // experts)
        capacity = int(rng.choice([1, 1, 2, 3, max(1, even // 2), even, tokens * k + 5, 2**20]))
        capacity = min(capacity, MOST_PLACES // (experts * groups))
        limit = experts if rng.random() < 0.2 else int(rng.integers(1, experts + 1))
        gates = make_gates(rng, int(rng.integers(8)), (groups, tokens, experts))
        yield Case(gates, capacity, k, bool(rng.integers(2)), bool(rng.integers(2)), limit)


def _random_shape(rng: np.random.Generator, number: int) -> tuple[int, int, int, int]:
    """Draw the sizes G, S, E and K of a case."""
    groups = int(rng.choice([1, 1, 2, 3, 5]))
    tokens = 1 if number % 10 == 5 else int(rng.integers(100, 301) if number % 16 == 0 else rng.integers(2, 41))
    experts = int(rng.choice([1, 2, 3, 4, 5, 8, 13, 16, 32, 64]))
    return groups, tokens, experts, experts if rng.random() < 0.15 else int(rng.integers(1, min(experts, 8) + 1))
