"""What a check found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Check(NamedTuple):
    """One thing that was looked at so often, and a sentence for each time that it was not as it must be."""

    name: str
    count: int
    failures: Sequence[str]


def first_line(error: Exception) -> str:
    """What an error says, without the advice that torch adds."""
    return str(error).strip().partition("\n")[0][:400]
