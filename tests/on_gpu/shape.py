"""The sizes and element types that a kernel runs on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Type = Literal["fp32", "fp16", "bf16"]
TYPES: tuple[Type, ...] = ("fp32", "fp16", "bf16")
TYPE_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True)
class Shape:
    """The sizes of one MoE layer's routing, the type of its tokens, and the order in which tokens get slots.

    The sizes are G groups, S tokens, E experts, K choices, the capacity (slots per expert and group), and D hidden features.
    """

    groups: int
    tokens: int
    experts: int
    choices: int
    capacity: int
    hidden: int = 768  # of a B/16
    type: Type = "fp32"
    bpr: bool = True

    @property
    def all_tokens(self) -> int:
        """Number of tokens in all groups, G * S."""
        return self.groups * self.tokens

    @property
    def pairs(self) -> int:
        """Number of (token, expert) pairs, G * S * K."""
        return self.all_tokens * self.choices

    @property
    def all_slots(self) -> int:
        """Number of slots of all experts, E * M, where M = G * c for c slots per expert and group."""
        return self.experts * self.groups * self.capacity

    @property
    def row_bytes(self) -> int:
        """Bytes of one token."""
        return self.hidden * TYPE_BYTES[self.type]

    def __str__(self) -> str:
        """Return a description such as `64 x 197, E 8, K 2, c 52, D 768, fp32`."""
        hidden = f", D {self.hidden}" if self.hidden else ""
        sizes = f"{self.groups} x {self.tokens}, E {self.experts}, K {self.choices}, c {self.capacity}"
        return f"{sizes}{hidden}, {self.type}{'' if self.bpr else ', vanilla'}"
