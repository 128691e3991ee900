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
    """gates[G,S,E] of any float dtype, and a setting."""

    gates: np.ndarray
    capacity: int
    k: int
    bpr: bool

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """VmoeRoute's, by name and in its order."""
        settings = {"capacity": self.capacity, "k": self.k, "bpr": self.bpr}
        return {"gates": self.gates} | {name: np.array([number], np.int64) for name, number in settings.items()}

    def __str__(self) -> str:
        return f"{self.gates.dtype} gates{list(self.gates.shape)} capacity {self.capacity} k {self.k} bpr {self.bpr}"


def route(case: Case, *, with_src: bool = True) -> Outputs:
    """VmoeRoute by sorting: a pair's place is the number of pairs before it in the queue of its expert."""
    groups, tokens, experts = case.gates.shape
    places = groups * case.capacity
    values = case.gates.astype(np.float32)
    ranked = np.where(np.isnan(values), np.float32(0), values)
    expert = np.argsort(-ranked, axis=-1, kind="stable")[..., : case.k]
    weight = np.take_along_axis(case.gates, expert, axis=-1)
    slot = np.empty((groups, tokens, case.k), np.int32)
    src = np.full(experts * places if with_src else 0, -1, np.int32)
    for group in range(groups):
        best = ranked[group].max(axis=-1)
        turn = np.argsort(-best, kind="stable") if case.bpr else np.arange(tokens)
        queue = expert[group, turn].T.ravel()  # first choices in turn, then second choices, ...
        by_expert = np.argsort(queue, kind="stable")
        waiting = np.bincount(queue, minlength=experts)
        before = np.empty_like(queue)
        before[by_expert] = np.arange(queue.size) - np.repeat(np.cumsum(waiting) - waiting, waiting)
        flat = np.where(before < case.capacity, queue * places + group * case.capacity + before, -1)
        slot[group, turn] = flat.reshape(case.k, tokens).T
        if with_src:
            src[flat[flat >= 0]] = (group * tokens + np.tile(turn, case.k))[flat >= 0]
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
