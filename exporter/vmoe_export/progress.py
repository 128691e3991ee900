"""What an export tells of its longer steps while they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

ProgressHook = Callable[[str, float], AbstractContextManager[Callable[[float], None]]]
"""Begins a step, of a description and a total; the step takes each amount of the total that is done, and ends its block."""


@contextmanager
def untold(text: str, total: float) -> Iterator[Callable[[float], None]]:
    """A `ProgressHook` that tells nobody."""
    yield lambda amount: None
