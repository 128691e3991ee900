"""Swaps two paths on one file system."""

from __future__ import annotations

import time
from pathlib import Path


def exchange(one: Path, other: Path) -> None:
    """Swap two paths by renaming three times. During the swap, `one` does not exist for a moment."""
    between = other.with_name(f"{other.name}.between")
    one.rename(between)
    other.rename(one)
    between.rename(other)


def exchange_for_a_while(one: Path, other: Path, delay: float, hold: float) -> None:
    """Swap two paths after `delay` seconds, and swap them back `hold` seconds later."""
    time.sleep(delay)
    exchange(one, other)
    time.sleep(hold)
    exchange(one, other)
