"""How many CPUs this process may use."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

MAX_THREADS, MAX_THREADS_PER_PROCESSOR = 64, 4
"""The limits of the threads of a call, of which the larger one applies. Starting hundreds on a few CPUs takes minutes."""

_CONTROL_GROUP = Path("/sys/fs/cgroup")


def usable_processors() -> int:
    """CPUs that this process may run on; in a container, often fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def max_threads() -> int:
    """The maximum number of threads of a call on this machine."""
    return max(MAX_THREADS, MAX_THREADS_PER_PROCESSOR * usable_processors())


def processor_limit() -> int | None:
    """CPUs that this process may run on, or fewer (rounded up) if its control group limits the CPU time of a container; None
    if it may use all CPUs of the machine.

    Without a limit, ONNX Runtime starts a thread for each core of the machine and pins it there. A process that uses up the
    CPU time of a period is stopped until the next period begins.
    """
    usable = usable_processors()
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):  # of versions 2 and 1
        with suppress(OSError, ValueError):  # "max" is no limit, and so is -1
            quota, period = map(int, " ".join((_CONTROL_GROUP / name).read_text() for name in names).split())
            if quota > 0 and math.ceil(quota / period) < usable:
                return math.ceil(quota / period)
    return usable if usable < (os.cpu_count() or 1) else None
