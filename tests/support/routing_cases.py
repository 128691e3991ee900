"""Routing cases of every kind. Some come from the official router, others are random."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import op_reference
from on_gpu.gate_kinds import make_gates

GOLDEN = Path(__file__).parents[1] / "data" / "golden"

Outputs = list[np.ndarray]


@dataclass(frozen=True)
class Case:
    """A call of VmoeRoute with a setting. The gates are an array [G,S,E] of any float type.

    If `max_experts` is None, the call omits the op's policy inputs. If `max_experts` is E, there is no limit on the experts.
    """

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
        """The inputs of VmoeRoute by name, in the op's order."""
        return {"gates": self.gates} | {name: np.array([n], np.int64) for name, n in self.numbers.items()}

    @property
    def is_official(self) -> bool:
        return not self.pool and (self.max_experts is None or self.max_experts >= self.gates.shape[2])

    def __str__(self) -> str:
        return f"{self.gates.dtype} gates{list(self.gates.shape)} {self.numbers}"


def route(case: Case) -> Outputs:
    """Return the numpy reference's outputs for a case: slot, weight, src and expert."""
    return list(op_reference.route(case.gates, **case.numbers))


def same_bits(found: Outputs, expected: Outputs) -> bool:
    """Return whether the types, shapes and bits of all outputs are equal."""
    return all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for a, b in zip(found, expected, strict=True)
    )


def golden_cases() -> list[Case]:
    """Return the cases that were recorded with the official router.

    The recorded outputs are in the same file as the gates.
    """
    with np.load(GOLDEN / "routing.npz") as stored:
        return [
            Case(stored[f"g{number}"][None], raw["capacity"], raw["K"], raw["batch_priority"])
            for number, raw in enumerate(json.loads((GOLDEN / "routing.json").read_text())["cases"])
        ]


def choices(seed: int, count: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield the inputs, by name, of `count` random calls of VmoeChooseTokens."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        tokens = int(rng.integers(100, 300) if number % 10 == 0 else rng.integers(1, 40))
        shape = (int(rng.integers(1, 5)), tokens, int(rng.integers(1, 34)))
        capacity = int(rng.choice([1, 2, max(1, tokens // shape[2]), tokens, tokens + 1, 3 * tokens]))
        yield {"gates": make_gates(rng, number % 8, shape), "capacity": np.array([capacity], np.int64)}
