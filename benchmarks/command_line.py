"""Shared parts of the benchmarks' commands: number options, tables, and one-line errors.

This module imports no packages outside Python, because `gpu.py`, which uses it, must print its errors without them.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class BenchmarkError(SystemExit):
    """Error raised if something can't be measured. The error ends the program with a one-line message and exit code 1.

    The message goes to standard error.
    """


def missing(*packages: str) -> str | None:
    """Return a message if one of `packages`, which benchmarks/requirements.txt lists, is not installed.

    If all are installed, return None.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            return f"{package} isn't installed; run pip install -r benchmarks/requirements.txt"
    return None


def count(text: str) -> int:
    """Parse a whole number of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not '{text}'")
    return number


def positive(text: str) -> float:
    """Parse a number above 0, for argparse."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not '{text}'")
    return number


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table, or an empty list if there are no rows.

    The first column contains text, and the other columns contain numbers.
    """
    body = [f"| {' | '.join(row)} |" for row in rows]
    return [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}", *body] if body else []


def cells(row: Mapping[str, Any], fields: str) -> list[str]:
    """Format one table cell for each word of `fields`.

    A word is a key of `row`, optionally followed by a colon and a format, such as `ms:.2f`. The value None becomes a dash.

    Examples:
        >>> cells({"name": "a", "share": 0.5, "ms": None}, "name share:.1% ms:.2f")
        ['a', '50.0%', '-']
    """
    parts = [field.partition(":") for field in fields.split()]
    return ["-" if row[key] is None else format(row[key], form) for key, _, form in parts]


def say(text: str) -> None:
    """Print progress to standard error."""
    print(text, file=sys.stderr, flush=True)
