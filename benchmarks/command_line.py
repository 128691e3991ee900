"""What the benchmarks' commands have in common: numbers among options, tables, and errors of one sentence.

It needs Python alone, as `gpu.py` does.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class BenchmarkError(SystemExit):
    """Something can't be measured. Ends the program with one sentence on standard error, exit code 1."""


def missing(*packages: str) -> str | None:
    """Why one of these packages of benchmarks/requirements.txt can't be used, or None."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            return f"{package} isn't installed; run pip install -r benchmarks/requirements.txt"
    return None


def count(text: str) -> int:
    """A whole number from 1 on, as argparse wants it."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, not '{text}'")
    return number


def positive(text: str) -> float:
    """A number above 0, as argparse wants it."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not '{text}'")
    return number


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table, none without rows; the first column is text, the others are numbers."""
    body = [f"| {' | '.join(row)} |" for row in rows]
    return [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}", *body] if body else []


def cells(row: Mapping[str, Any], fields: str) -> list[str]:
    """A cell for each word of `fields`, which is a key and perhaps a format; a dash where the value is None.

    Examples:
        >>> cells({"name": "a", "share": 0.5, "ms": None}, "name share:.1% ms:.2f")
        ['a', '50.0%', '-']
    """
    parts = [field.partition(":") for field in fields.split()]
    return ["-" if row[key] is None else format(row[key], form) for key, _, form in parts]


def say(text: str) -> None:
    """Tells what is going on, on standard error."""
    print(text, file=sys.stderr, flush=True)
