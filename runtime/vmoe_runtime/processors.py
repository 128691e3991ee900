"""How many CPUs this process may use."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

MAX_THREADS, MAX_THREADS_PER_PROCESSOR = 64, 4
"""Limits of the threads of a call; the larger one applies. Starting hundreds of threads on a few CPUs takes minutes."""

_CONTROL_GROUP = Path("/sys/fs/cgroup")


def usable_processors() -> int:
    """Number of CPUs that this process may run on; in a container, it is often less than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def max_threads() -> int:
    """The maximum number of threads of a call on this machine."""
    return max(MAX_THREADS, MAX_THREADS_PER_PROCESSOR * usable_processors())


def processor_limit() -> int | None:
    """Number of CPUs that this process may use, or None if it may use all CPUs of the machine.

    If the process's control group limits its CPU time, as in a container, that limit counts too, rounded up to whole CPUs.
    Without a number, ONNX Runtime starts a thread for each core of the machine and pins it there. Then the process may use
    up the CPU time of a period, and is stopped until the next period begins.
    """
    usable = usable_processors()
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):  # of versions 2 and 1
        with suppress(OSError, ValueError):  # "max" is no limit, and so is -1
            quota, period = map(int, " ".join((_CONTROL_GROUP / name).read_text() for name in names).split())
            if quota > 0 and math.ceil(quota / period) < usable:
                return math.ceil(quota / period)
    return usable if usable < (os.cpu_count() or 1) else None
