"""The number of CPUs that this process may use, and the maximum number of threads."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

MAX_THREADS, MAX_THREADS_PER_PROCESSOR = 64, 4
"""Limits of the threads of a call; the larger one applies. Starting hundreds of threads on a few CPUs takes minutes."""

_CONTROL_GROUP = Path("/sys/fs/cgroup")


def usable_processors() -> int:
    """Return the number of CPUs that this process may run on.

    In a container, this number is often smaller than the number of CPUs of the machine.
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def max_threads() -> int:
    """Return the maximum number of threads per call on this machine."""
    return max(MAX_THREADS, MAX_THREADS_PER_PROCESSOR * usable_processors())


def processor_limit() -> int | None:
    """Return the number of CPUs that this process may use, or None if it may use all CPUs of the machine.

    If the process's control group limits its CPU time, as in a container, the result is at most that limit, rounded up to
    whole CPUs. If ONNX Runtime gets no number of threads, it starts a thread on each core of the machine. These threads can
    use up the CPU time that the process may use in a period. The process then stops until the next period begins.
    """
    usable = usable_processors()
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):  # in versions 2 and 1 of control groups
        with suppress(OSError, ValueError):  # "max" (a ValueError here) and -1 both mean no limit
            quota, period = map(int, " ".join((_CONTROL_GROUP / name).read_text() for name in names).split())
            if quota > 0 and math.ceil(quota / period) < usable:
                return math.ceil(quota / period)
    return usable if usable < (os.cpu_count() or 1) else None
