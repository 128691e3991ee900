"""Random cases of routing with a pool and a limit of experts, and a reference of them that sorts instead of serving."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from op_models import run_reference
from routing_cases import Outputs, make_gates

from vmoe_export.ops.table import OPS

NUM_SHAPES = 300
MOST_PLACES = 2**16  # of src, which a random case makes


@dataclass(frozen=True)
class PolicyCase:
    """gates f32[G,S,E] and a setting; max_experts >= E is no limit."""

    gates: np.ndarray
    capacity: int
    k: int
    bpr: bool
    pool: bool
    max_experts: int

    @property
    def numbers(self) -> dict[str, int]:
        names = ("capacity", "k", "bpr", "pool", "max_experts")
        return {name: int(getattr(self, name)) for name in names}

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """VmoeRoute's, by name and in its order."""
        return {"gates": self.gates} | {name: np.array([n], np.int64) for name, n in self.numbers.items()}

    @property
    def is_official(self) -> bool:
        return not self.pool and self.max_experts >= self.gates.shape[2]

    @property
    def expected(self) -> Outputs:
        """What the reference gives."""
        return run_reference(OPS["VmoeRoute"], *self.inputs.values())

    def __str__(self) -> str:
        return f"gates{list(self.gates.shape)} {self.numbers}"


def policy_cases(seed: int, count: int) -> Iterator[PolicyCase]:
    rng = np.random.default_rng([11, seed])
    # Runtimes compile something for each shape that they haven't met.
    shapes = [_random_shape(rng, number) for number in range(NUM_SHAPES)]
    for _ in range(count):
        groups, tokens, experts, k = shapes[int(rng.integers(NUM_SHAPES))]
        even = max(1, tokens * k // experts)
        capacity = int(rng.choice([1, 1, 2, 3, max(1, even // 2), even, tokens * k + 5, 2**20]))
        capacity = min(capacity, MOST_PLACES // (experts * groups))
        limit = experts if rng.random() < 0.2 else int(rng.integers(1, experts + 1))
        gates = make_gates(rng, int(rng.integers(8)), (groups, tokens, experts))
        yield PolicyCase(gates, capacity, k, bool(rng.integers(2)), bool(rng.integers(2)), limit)


def _random_shape(rng: np.random.Generator, number: int) -> tuple[int, int, int, int]:
    """G, S, E and K."""
    groups = int(rng.choice([1, 1, 2, 3, 5]))
    tokens = 1 if number % 10 == 5 else int(rng.integers(100, 301) if number % 16 == 0 else rng.integers(2, 41))
    experts = int(rng.choice([1, 2, 3, 4, 5, 8, 16, 32]))
    return groups, tokens, experts, experts if rng.random() < 0.15 else int(rng.integers(1, min(experts, 4) + 1))


def sorted_route(case: PolicyCase) -> Outputs:
    """VmoeRoute, by sorting: who is before whom is counted in columns, and nobody is served."""
    groups, tokens, experts = case.gates.shape
    ranked = np.where(np.isnan(case.gates), np.float32(0), case.gates)
    order = np.argsort(-ranked, axis=-1, kind="stable")
    expert = order[..., : case.k]
    turn = np.argsort(-ranked.max(axis=-1) if case.bpr else np.zeros((groups, tokens)), axis=-1, kind="stable")
    queue = np.take_along_axis(expert, turn[..., None], axis=1).transpose(0, 2, 1).reshape(groups, -1)
    # Masses as pairs of whole numbers and experts, which sort as the experts do.
    units = np.clip(ranked.max(axis=-1), 0, 1).astype(np.float64) * 2**14 // 1
    mass = np.stack([np.bincount(order[g, :, 0], units[g], experts) for g in range(groups)]).astype(np.int64)
    rank = np.array([[sum((-n, e) < (-row[i], i) for e, n in enumerate(row)) for i in range(experts)] for row in mass])
    is_open = np.take_along_axis(rank < case.max_experts, queue, axis=1)
    asked = np.cumsum((queue[..., None] == np.arange(experts)) & is_open[..., None], axis=1)
    before = np.take_along_axis(asked, queue[..., None], axis=2)[..., 0] - 1
    places = groups * case.capacity
    if case.pool:
        kept = is_open & (np.cumsum(is_open, axis=1) <= experts * case.capacity)
        taken = np.stack([np.bincount(queue[g][kept[g]], minlength=experts) for g in range(groups)])
        places = max(1, taken.sum(axis=0).max())
        first = np.concatenate([np.zeros((1, experts), np.int64), taken.cumsum(axis=0)[:-1]])
    else:
        kept = is_open & (before < case.capacity)
        first = np.repeat(np.arange(groups)[:, None] * case.capacity, experts, axis=1)
    flat = np.where(kept, queue * places + np.take_along_axis(first, queue, axis=1) + before, -1)
    slot = np.empty((groups, tokens, case.k), np.int32)
    np.put_along_axis(slot, turn[..., None], flat.reshape(groups, case.k, tokens).transpose(0, 2, 1), axis=1)
    src = np.full(experts * places, -1, np.int32)
    src[flat[kept]] = np.tile(np.arange(groups)[:, None] * tokens + turn, case.k)[kept]
    weight = np.take_along_axis(case.gates, expert, axis=-1)
    return [slot, weight, src.reshape(experts, -1), expert.astype(np.int32)]
