"""Installations of the runtime side by side: each in a process of its own, timed in turns."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from cpu.errors import BenchmarkError
from cpu.timing import Times, summarize

_WORKER = Path(__file__).with_name("installation_worker.py")
LOADING = 0
"""Stands among batch sizes for loading the bundle and answering once."""
_WARM_UP_ROUNDS = 2
_PAUSE_SECONDS = 0.05  # as in timing.py
_SEED = 0


class Installation:
    """A process with an engine of an installation.

    Args:
        site_packages: the folder that it was installed into, as by `pip install --target`; None for that of this Python.
            What it lacks, such as ONNX Runtime, is this Python's.
        bundle: what the engine loads.
        threads: of the engine.
        profile: of the engine; None for the bundle's own default.

    Raises:
        BenchmarkError: it can't be started, or something of another installation would run.
    """

    def __init__(self, site_packages: Path | None, bundle: Path, threads: int, profile: str | None) -> None:
        folder = site_packages.resolve() if site_packages else None
        paths = [str(folder), *(path for path in sys.path if path)] if folder else []
        given = {"paths": paths, "bundle": str(bundle), "threads": threads, "profile": profile}
        # Without the site module no editable installation can come before the paths.
        isolation = ["-P", "-S"] if folder else ["-P"]
        command = [sys.executable, *isolation, str(_WORKER), json.dumps(given)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid
        found = self._read()
        self.description, self.library = str(found["description"]), found["library"]
        for path in (found["package"], found["library"]):
            if folder and not Path(path or "").resolve().is_relative_to(folder):
                self.close()
                raise BenchmarkError(f"{folder} has no whole installation of vmoe-export: {path} would run")

    def call(self, batch: int) -> tuple[float, float]:
        """Seconds of one call of `batch` images, and the sum over its logits' absolute values.

        With LOADING for a batch, the seconds of loading the bundle again and answering once.
        """
        assert self._process.stdin is not None
        print(batch, file=self._process.stdin, flush=True)
        answer = self._read()
        return float(answer["seconds"]), float(answer["sum"])

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            _, said = self._process.communicate()
            raise BenchmarkError(f"an installation stopped: {(said.strip().splitlines() or ['it was killed'])[-1]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def time_installations(
    installations: Mapping[str, Installation], batches: Sequence[int], rounds: int
) -> dict[tuple[str, int], tuple[Times, float]]:
    """Times all installations at all batch sizes in turns, in an order shuffled anew each round.

    Returns:
        By name and batch size the times, and the sum over the logits' absolute values.
    """
    order = np.random.default_rng(_SEED)
    keys = [(name, batch) for name in installations for batch in batches]
    seconds: dict[tuple[str, int], list[float]] = {key: [] for key in keys}
    sums: dict[tuple[str, int], float] = {}
    for index in range(_WARM_UP_ROUNDS + rounds):
        for chosen in order.permutation(len(keys)):
            name, batch = key = keys[chosen]
            time.sleep(_PAUSE_SECONDS)
            taken, sums[key] = installations[name].call(batch)
            if index >= _WARM_UP_ROUNDS:
                seconds[key].append(taken)
    return {key: (summarize(seconds[key]), sums[key]) for key in keys}
