"""A lock that still works after a fork."""

from __future__ import annotations

import os
import threading


def forkable_lock() -> threading.RLock:
    """Return a lock that is free in a forked process, even if another thread held it at the time of the fork.

    The forked process lacks the thread that would release the lock.
    """
    lock = threading.RLock()
    if hasattr(os, "register_at_fork"):  # Windows has no fork
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock
