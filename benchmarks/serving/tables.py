"""Rows of dictionaries as cells of a Markdown table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def cells(row: Mapping[str, Any], fields: str) -> list[str]:
    """A cell for each word of `fields`, which is a key and perhaps a format; a dash where the value is None.

    Example:
        >>> cells({"name": "a", "share": 0.5, "ms": None}, "name share:.1% ms:.2f")
        ['a', '50.0%', '-']
    """
    parts = [field.partition(":") for field in fields.split()]
    return ["-" if row[key] is None else format(row[key], form) for key, _, form in parts]
