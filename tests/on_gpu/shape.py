"""The shape of a kernel's problem: sizes and element types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Type = Literal["fp32", "fp16", "bf16"]
TYPES: tuple[Type, ...] = ("fp32", "fp16", "bf16")
TYPE_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True)
class Shape:
    """Sizes of one MoE layer's routing: G, S, E, K, slots per expert and group, D; type of tokens; order of service."""

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
        """Tokens of all groups, G * S."""
        return self.groups * self.tokens

    @property
    def pairs(self) -> int:
        """(token, expert) pairs, G * S * K."""
        return self.all_tokens * self.choices

    @property
    def all_slots(self) -> int:
        """Slots of all experts, E * M = E * G * c."""
        return self.experts * self.groups * self.capacity

    @property
    def row_bytes(self) -> int:
        """Bytes of one token."""
        return self.hidden * TYPE_BYTES[self.type]

    def __str__(self) -> str:
        """Return a text such as `64 x 197, E 8, K 2, c 52, D 768, fp32`."""
        hidden = f", D {self.hidden}" if self.hidden else ""
        sizes = f"{self.groups} x {self.tokens}, E {self.experts}, K {self.choices}, c {self.capacity}"
        return f"{sizes}{hidden}, {self.type}{'' if self.bpr else ', vanilla'}"
