"""Test cases for the kernels: gates that make routing difficult, and tokens to move."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from on_gpu.problem import TORCH_TYPES
from on_gpu.shape import TYPE_BYTES, TYPES, Shape, Type

GATE_KINDS = ("random", "tied", "equal", "nan", "extreme", "one expert")

_SMALL = Shape(3, 197, 8, 2, 30, hidden=64)


@dataclass(frozen=True)
class Case:
    """One routing, and the tokens that it moves.

    Attributes:
        shape: the sizes.
        kind: the kind of gates.
        seed: seed for the random gates and tokens.
        offset: number of bytes by which the tokens are misaligned.
    """

    shape: Shape
    kind: str
    seed: int
    offset: int = 0

    def __str__(self) -> str:
        """Return a description such as `1 x 197, E 8, K 2, c 30, D 64, fp32, random gates, seed 7`."""
        offset = f", {self.offset} bytes off" if self.offset else ""
        return f"{self.shape}, {self.kind} gates, seed {self.seed}{offset}"


def make_gates(kind: str, groups: int, tokens: int, experts: int, source: torch.Generator) -> Tensor:
    """Make float32 gates[G,S,E] of one kind.

    Some kinds are outputs of a softmax. The others are values that no softmax returns, but an op must route them too.
    """
    shape = groups, tokens, experts
    if kind == "equal":
        return torch.full(shape, 1 / experts)
    if kind == "tied":  # values from a small set, so that experts and tokens have ties
        return torch.randint(0, 4, shape, generator=source) / 4
    logits = torch.randn(shape, generator=source)
    if kind == "one expert":
        logits[..., int(torch.randint(experts, (1,), generator=source))] += 9
    gates = logits.softmax(dim=-1)
    if kind == "nan":
        gates[torch.rand(shape, generator=source) < 0.1] = torch.nan
        gates[torch.rand(shape[:2], generator=source) < 0.1] = torch.nan
    if kind == "extreme":
        odd = torch.tensor([0, -0.0, torch.inf, -torch.inf, -1, 1e-41, -1e-41, 3e38, -3e38, torch.nan])
        chosen = odd[torch.randint(len(odd), shape, generator=source)]
        gates = torch.where(torch.rand(shape, generator=source) < 0.5, chosen, gates)
    return gates


def make_bits(shape: tuple[int, ...], type: Type, source: torch.Generator) -> Tensor:
    """Make elements of random bits, some of which are NaN. If an op only copies elements, it must keep every bit."""
    size = (*shape[:-1], shape[-1] * TYPE_BYTES[type])
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=source).view(TORCH_TYPES[type])


def make_numbers(shape: tuple[int, ...], type: Type, source: torch.Generator) -> Tensor:
    """Make numbers of both signs and many magnitudes.

    Some are zeros, and some are rounded when they are scaled.
    """
    numbers = torch.randn(shape, generator=source) * 10.0 ** torch.randint(-3, 3, shape, generator=source)
    for odd in (-0.0, 6e4, 1e-40):
        numbers[torch.rand(shape, generator=source) < 0.02] = odd
    return numbers.to(TORCH_TYPES[type])


def make_inputs(case: Case) -> dict[str, Tensor]:
    """Make the case's `gates` [G,S,E], `x` [G,S,D] and `out` [E,M,D]."""
    source, shape = torch.Generator().manual_seed(case.seed), case.shape
    gates = make_gates(case.kind, shape.groups, shape.tokens, shape.experts, source)
    x = make_bits((shape.groups, shape.tokens, shape.hidden), shape.type, source)
    out = make_numbers((shape.experts, shape.groups * shape.capacity, shape.hidden), shape.type, source)
    return {"gates": gates, "x": x, "out": out}


def named_cases(seed: int) -> Iterator[Case]:
    """Yield cases with every kind of gates, every token type, and both orders in which tokens get slots.

    Then yield cases with extreme sizes.
    """
    for kind in GATE_KINDS:
        for type in TYPES:
            for bpr in (True, False):
                shape = replace(_SMALL, type=type, bpr=bpr)
                yield Case(shape, kind, seed)
                yield Case(replace(shape, capacity=1), kind, seed)
                yield Case(replace(shape, tokens=1500, choices=2, hidden=8), kind, seed)  # more than one tile
    for type in ("fp16", "bf16"):  # as in exported graphs
        yield Case(replace(_SMALL, type=type, hidden=768), "random", seed)
    for type in TYPES:  # misaligned, so that rows can't be read 16 bytes at a time
        yield Case(replace(_SMALL, type=type, hidden=5), "random", seed)
        yield Case(replace(_SMALL, type=type), "random", seed, offset=4 if type == "fp32" else 2)
    ends = (
        *((1, 1, 1, 1, 1, 4), (1, 1, 256, 8, 3, 4), (2, 10, 256, 8, 1, 4), (5, 7, 8, 8, 7, 4)),
        (1, 197, 8, 2, 500, 4),  # more slots than tokens
        *((70_000, 2, 2, 1, 1, 4), (70_000, 1, 2, 2, 1, 4)),  # more groups than the second dimension of a grid allows
        *((1, 2048, 32, 1, 64, 4), (1, 2049, 32, 1, 64, 4), (2, 1024, 8, 2, 250, 4), (2, 1025, 8, 2, 250, 4)),
        *((2, 682, 9, 3, 300, 4), (2, 683, 9, 3, 300, 4), (1, 256, 16, 8, 100, 4), (1, 257, 16, 8, 100, 4)),
        *((1, 40_000, 64, 4, 2_000, 2), (1, 65_536, 256, 8, 2_151, 2), (2, 65_536, 8, 1, 8_602, 2)),
    )
    for shape in (Shape(*sizes) for sizes in ends):
        yield Case(shape, "random", seed)
        yield Case(replace(shape, bpr=False), "tied", seed)


def random_cases(seed: int, count: int) -> Iterator[Case]:
    """Yield random cases of any size, type and kind. Large cases are rare."""
    for index in range(count):
        draw = random.Random(f"{seed} {index}")
        experts = draw.choice([1, 2, 3, 7, 8, 16, 32, 33, 64, 128, 256])
        choices = draw.randint(1, min(experts, 8))
        tokens = draw.randint(1, 5000 if draw.random() < 0.1 else 600)
        capacity = max(1, round(tokens * choices / experts * draw.uniform(0.05, 2.2)))
        type = draw.choice(TYPES)
        hidden, bpr = draw.choice([1, 2, 3, 8, 24, 40, 96]), draw.random() < 0.5
        shape = Shape(draw.randint(1, 8), tokens, experts, choices, capacity, hidden, type, bpr)
        yield Case(shape, draw.choice(GATE_KINDS), draw.randrange(2**31), draw.choice([0, 0, 0, 4, 8]))
