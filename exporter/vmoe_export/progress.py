"""The hook through which an export reports its longer steps while they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

ProgressHook = Callable[[str, float], AbstractContextManager[Callable[[float], None]]]
"""Begins a step with a description and a total. The block's value is called with each amount of the total that is done, and
the step ends with the block."""


@contextmanager
def untold(text: str, total: float) -> Iterator[Callable[[float], None]]:
    """Report nothing; a `ProgressHook`."""
    yield lambda amount: None
