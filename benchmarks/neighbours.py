"""Time an engine that alternates with another engine in the same process, and compare it with the engine alone.

    python benchmarks/neighbours.py BUNDLE OTHER [--batch 1] [--threads 2] [--rounds 20]

In each round, every engine is timed in two blocks of calls. In the first block, it runs alone. In the second block, a call
of the other engine precedes each timed call. The reported time is the 10th percentile of the call times, because other
processes affect this percentile least. The two bundles must differ, because engines on the same bundle share an
`InferenceSession`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from command_line import count, table

from vmoe_runtime import Engine

_PERCENTILE = 10
_CALLS = 4  # per block
_PAUSE_SECONDS = 0.1  # pause before a block of calls, so that the previous block's threads stop spinning


def measure(given: argparse.Namespace) -> list[list[str]]:
    """Return two table rows for each bundle: with threads that spin after a call, and with threads that don't spin."""
    keys = [(path, spin) for spin in (True, False) for path in given.bundles]
    engines = {(path, spin): Engine.load(path, None, "onnxruntime", given.threads, spin=spin) for path, spin in keys}
    calls = {key: partial(engine, _noise(engine, given.batch)) for key, engine in engines.items()}
    seconds: dict[Any, tuple[list[float], list[float]]] = {key: ([], []) for key in keys}
    for _ in range(given.rounds):
        for path, spin in keys:
            other = next(one for one in given.bundles if one != path)
            for taken, neighbour in zip(seconds[path, spin], (None, calls[other, spin]), strict=True):
                _time(calls[path, spin], neighbour, taken)
    rows = []
    for (path, spin), both in seconds.items():
        alone, beside = (1e3 * float(np.percentile(taken, _PERCENTILE)) for taken in both)
        rows.append([f"{path.name}, spin={spin}", *(f"{number:.2f}" for number in (alone, beside, beside / alone))])
    return rows


def _noise(engine: Engine, batch: int) -> np.ndarray:
    spec = engine.manifest.input
    return engine.batch(np.random.default_rng(0).integers(0, 256, (batch, spec.height, spec.width, spec.channels), np.uint8))


def _time(call: partial, neighbour: partial | None, seconds: list[float]) -> None:
    time.sleep(_PAUSE_SECONDS)
    call()
    for _ in range(_CALLS):
        if neighbour is not None:
            neighbour()
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return 0."""
    parser = argparse.ArgumentParser(description="Time two engines, alone and in turns.")
    parser.add_argument("bundles", type=Path, nargs=2, metavar="BUNDLE")
    parser.add_argument("--batch", type=count, default=1, metavar="N")
    parser.add_argument("--threads", type=count, default=2, metavar="N")
    parser.add_argument("--rounds", type=count, default=20, metavar="N")
    given = parser.parse_args(arguments)
    print(*table(["", "alone, ms", "after the other, ms", "ratio"], measure(given)), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
