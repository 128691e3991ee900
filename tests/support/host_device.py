"""A device for the GPU benchmark whose memory is the CPU's memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch


class HostDevice:
    """A device whose memory is the CPU's memory. Its only stream does all work immediately."""

    def __init__(self) -> None:
        self.torch_device = torch.device("cpu")
        self.name, self.architecture, self.l2_bytes = "Emulator 1", "sm_90", 1 << 16
        self.facts: dict[str, Any] = {"name": self.name, "architecture": self.architecture}

    def stream(self) -> int:
        return 0

    def synchronize(self) -> None:
        pass

    def on_streams(self, works: Sequence[Callable[[], None]], times: int = 1) -> None:
        for _ in range(times):
            for work in works:
                work()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        work()
        return work

    def milliseconds(self, work: Callable[[], None]) -> float:
        start = time.perf_counter()
        work()
        return (time.perf_counter() - start) * 1e3

    def release(self) -> None:
        pass
