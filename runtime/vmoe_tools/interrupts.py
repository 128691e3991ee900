"""Ctrl-C where an exception would be lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupt_held_back() -> Iterator[None]:
    """Raises KeyboardInterrupt behind the block where Ctrl-C comes inside it.

    A compiled package may lose an exception that is raised while it imports numpy, and matplotlib one that is raised while
    Python clears away what was drawn; both would go on as if nobody had asked them to stop. Where the process has a handler
    of its own for SIGINT, it is left alone.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt
