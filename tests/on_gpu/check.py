"""The result of a check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Check(NamedTuple):
    """The name of a check, how often it ran, and a sentence for each failure."""

    name: str
    count: int
    failures: Sequence[str]


def first_line(error: Exception) -> str:
    """Return the message of an error without the advice that torch adds."""
    return str(error).strip().partition("\n")[0][:400]
