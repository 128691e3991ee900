"""Exchanges two paths of one file system."""

from __future__ import annotations

import time
from pathlib import Path


def exchange(one: Path, other: Path) -> None:
    """In three steps, so that there is a moment without the first one, too."""
    between = other.with_name(f"{other.name}.between")
    one.rename(between)
    other.rename(one)
    between.rename(other)


def exchange_for_a_while(one: Path, other: Path, delay: float, hold: float) -> None:
    """Exchanges the paths in `delay` seconds, and exchanges them back `hold` seconds later."""
    time.sleep(delay)
    exchange(one, other)
    time.sleep(hold)
    exchange(one, other)
