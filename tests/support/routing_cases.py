"""Routing cases of every kind, and a routing reference that is fast enough for tens of thousands of tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
DENORMAL = np.float32(1e-44)
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, DENORMAL, -DENORMAL, 1e-38, 3e38, -3e38], np.float32)

Outputs = list[np.ndarray]


@dataclass(frozen=True)
class Case:
    """gates[G,S,E] of any float dtype, and a setting; without a `max_experts` there are no policies, and E is no limit."""

    gates: np.ndarray
    capacity: int
    k: int
    bpr: bool
    pool: bool = False
    max_experts: int | None = None

    @property
    def numbers(self) -> dict[str, int]:
        names = ("capacity", "k", "bpr", *(() if self.max_experts is None else ("pool", "max_experts")))
        return {name: int(getattr(self, name)) for name in names}

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """VmoeRoute's, by name and in its order."""
        return {"gates": self.gates} | {name: np.array([n], np.int64) for name, n in self.numbers.items()}

    @property
    def is_official(self) -> bool:
        return not self.pool and (self.max_experts is None or self.max_experts >= self.gates.shape[2])

    def __str__(self) -> str:
        return f"{self.gates.dtype} gates{list(self.gates.shape)} {self.numbers}"


def route(case: Case, *, with_src: bool = True) -> Outputs:
    """VmoeRoute by sorting: a pair's place is the number of pairs before it in the queue of its expert."""
    groups, tokens, experts = case.gates.shape
    values = case.gates.astype(np.float32)
    ranked = np.where(np.isnan(values), np.float32(0), values)
    best = ranked.max(axis=-1)
    expert = np.argsort(-ranked, axis=-1, kind="stable")[..., : case.k]
    turn = np.argsort(-best if case.bpr else np.zeros_like(best), axis=-1, kind="stable")
    # First choices in turn, then second choices, ...
    queue = np.take_along_axis(expert, turn[..., None], axis=1).transpose(0, 2, 1).reshape(groups, -1)
    before, kept = np.empty_like(queue), np.empty(queue.shape, bool)
    taken = np.zeros((groups, experts), np.int64)
    for group in range(groups):
        by_expert = np.argsort(queue[group], kind="stable")
        waiting = np.bincount(queue[group], minlength=experts)
        before[group, by_expert] = np.arange(by_expert.size) - np.repeat(np.cumsum(waiting) - waiting, waiting)
        is_open = np.ones(experts, bool)
        if case.max_experts is not None:
            units = np.clip(best[group], 0, 1).astype(np.float64) * 2**14 // 1
            mass = np.bincount(expert[group, :, 0], units, experts)
            is_open[np.argsort(-mass, kind="stable")[case.max_experts :]] = False
        wanted = is_open[queue[group]]
        full = np.cumsum(wanted) > experts * case.capacity if case.pool else before[group] >= case.capacity
        kept[group] = wanted & ~full
        taken[group] = np.bincount(queue[group][kept[group]], minlength=experts)
    places = max(1, taken.sum(axis=0).max()) if case.pool else groups * case.capacity
    first = taken.cumsum(axis=0) - taken if case.pool else np.repeat(np.arange(groups)[:, None] * case.capacity, experts, 1)
    flat = np.where(kept, queue * places + np.take_along_axis(first, queue, axis=1) + before, -1)
    slot = np.empty((groups, tokens, case.k), np.int32)
    np.put_along_axis(slot, turn[..., None], flat.reshape(groups, case.k, tokens).transpose(0, 2, 1), axis=1)
    src = np.full(experts * places if with_src else 0, -1, np.int32)
    if with_src:
        src[flat[kept]] = np.tile(np.arange(groups)[:, None] * tokens + turn, case.k)[kept]
    weight = np.take_along_axis(case.gates, expert, axis=-1)
    return [slot, weight, src.reshape(experts, -1), expert.astype(np.int32)]


def same_bits(found: Outputs, expected: Outputs) -> bool:
    """Types and shapes are the same, too."""
    return all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for a, b in zip(found, expected, strict=True)
    )


def golden_cases() -> list[Case]:
    """The official router's; what it gave stands in the same file."""
    with np.load(GOLDEN / "routing.npz") as stored:
        return [
            Case(stored[f"g{number}"][None], raw["capacity"], raw["K"], raw["batch_priority"])
            for number, raw in enumerate(json.loads((GOLDEN / "routing.json").read_text())["cases"])
        ]


def make_gates(rng: np.random.Generator, kind: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Gates f32 of one of eight kinds."""
    gates = rng.random(shape, np.float32)
    gates /= gates.sum(axis=-1, keepdims=True)
    if kind == 1:  # many ties
        gates = np.round(gates * 8) / 8
    elif kind == 2:  # tokens that repeat
        gates = gates[:, rng.integers(0, max(1, shape[1] // 3), shape[1])]
    elif kind == 3:  # all the same
        gates = np.full(shape, rng.choice([0, 0.25, np.nan, np.inf, -np.inf]), np.float32)
    elif kind == 4:  # some that are no numbers
        for value in (np.nan, np.inf, -np.inf):
            gates[rng.random(shape) < 0.1] = value
    elif kind == 5:
        gates = rng.choice(SPECIAL, shape)
    elif kind == 6:  # any bits at all: NaN of every kind, both signs, denormals
        gates = rng.integers(0, 2**32, shape, np.uint32).view(np.float32)
    elif kind == 7:  # neighbours
        gates = np.float32(0.25) + rng.integers(0, 3, shape).astype(np.float32) * np.spacing(np.float32(0.25))
    return np.ascontiguousarray(gates, np.float32)
