"""Whether other processes had a share of the machine while something was timed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_STAT = Path("/proc/stat")


class OthersWatch:
    """Between entering and leaving, what others took of the CPUs; `share` is 0 to 1, or None where the system won't tell.

    Args:
        children: running processes that are no others.
    """

    def __init__(self, children: Sequence[int] = ()) -> None:
        self.share: float | None = None
        self._children = children

    def __enter__(self) -> Self:
        self._start = _seconds(self._children)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._start is None or (end := _seconds(self._children)) is None:
            return
        busy, every, own = (after - before for before, after in zip(self._start, end, strict=True))
        self.share = max(0.0, busy - own) / every if every > 0 else 0.0


def _seconds(children: Sequence[int]) -> tuple[float, float, float] | None:
    """CPU time of all processes, of all processes and idling, and of this process and its children, in seconds."""
    if not _STAT.exists():
        return None
    ticks = [int(field) for field in _STAT.read_text().splitlines()[0].split()[1:9]]
    idle = ticks[3] + ticks[4]
    per_second = os.sysconf("SC_CLK_TCK")
    own = os.times()
    of_children = sum(_ticks(child) for child in children) / per_second
    return (sum(ticks) - idle) / per_second, sum(ticks) / per_second, own.user + own.system + of_children


def _ticks(process: int) -> int:
    """CPU time of a process, in clock ticks; 0 where it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])
