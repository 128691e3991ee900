"""Exchanges two paths and exchanges them back, as often as a line on stdin asks for it: `DELAY HOLD`, in seconds."""

from __future__ import annotations

import sys
import time
from pathlib import Path


def exchange(one: Path, other: Path) -> None:
    """In three steps, so that there is a moment without the first one, too."""
    between = other.with_name(f"{other.name}.between")
    one.rename(between)
    other.rename(one)
    between.rename(other)


def main(one: Path, other: Path) -> None:
    """Answers each line with `done` when all is as it was."""
    print("done", flush=True)
    for line in sys.stdin:
        delay, hold = map(float, line.split())
        time.sleep(delay)
        exchange(one, other)
        time.sleep(hold)
        exchange(one, other)
        print("done", flush=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
