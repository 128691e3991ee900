"""Defines the result of a check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Check(NamedTuple):
    """The name of a check, how many times it ran, and a message for each failure."""

    name: str
    count: int
    failures: Sequence[str]


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, without the advice that torch adds."""
    return str(error).strip().partition("\n")[0][:400]
