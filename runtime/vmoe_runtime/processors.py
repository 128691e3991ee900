"""How many CPUs this process may use."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

_CONTROL_GROUP = Path("/sys/fs/cgroup")


def usable_processors() -> int:
    """CPUs that this process may run on: a container often has fewer than the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_limit() -> int | None:
    """CPUs that this process may run on, or fewer if the control group of a container grants less time, rounded up; None if
    those are all of the machine. ONNX Runtime starts a thread for each core of the machine, and pins it there.

    A process with more threads than the time suffices for is stopped in each period until the next one begins.
    """
    usable = usable_processors()
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):  # of versions 2 and 1
        with suppress(OSError, ValueError):  # "max" is no limit, and so is -1
            quota, period = map(int, " ".join((_CONTROL_GROUP / name).read_text() for name in names).split())
            if quota > 0 and math.ceil(quota / period) < usable:
                return math.ceil(quota / period)
    return usable if usable < (os.cpu_count() or 1) else None
