"""Two engines in one process: how long a call takes between calls of the other engine, over how long it takes alone.

    python benchmarks/neighbours.py BUNDLE OTHER [--batch 1] [--threads 2] [--seconds 0.5] [--rounds 20]

A round times one engine, the other, and both in turns. A time is the one that a tenth of the calls doesn't exceed, as other
processes move that the least. The bundles must differ, as engines on one bundle share a session.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from command_line import count, positive, table

from vmoe_measure.timing import time_interleaved
from vmoe_runtime import Engine

_PERCENTILE = 10


def measure(given: argparse.Namespace, *, spin: bool) -> list[list[str]]:
    """A row for each bundle."""
    engines = [Engine.load(path, None, "onnxruntime", given.threads, spin=spin) for path in given.bundles]
    shapes = [(given.batch, spec.height, spec.width, spec.channels) for spec in (e.manifest.input for e in engines)]
    images = [np.random.default_rng(0).integers(0, 256, shape, np.uint8) for shape in shapes]
    calls = [partial(engine, engine.batch(batch)) for engine, batch in zip(engines, images, strict=True)]
    blocks = ([calls[0]], [calls[1]], calls)
    seconds: list[list[float]] = [[] for block in blocks for _ in block]
    for _ in range(given.rounds):
        for before, taken in zip(
            seconds, (one for block in blocks for one in time_interleaved(block, given.seconds)), strict=True
        ):
            before += taken
    fast = [1e3 * float(np.percentile(taken, _PERCENTILE)) for taken in seconds]
    rows = []
    for path, alone, between in zip(given.bundles, fast[:2], fast[2:], strict=True):
        rows.append([f"{path.name}, spin={spin}", *(f"{number:.2f}" for number in (alone, between, between / alone))])
    for engine in engines:
        engine.close()
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line, measures and prints; returns 0."""
    parser = argparse.ArgumentParser(description="Times two engines alone and in turns.")
    parser.add_argument("bundles", type=Path, nargs=2, metavar="BUNDLE")
    parser.add_argument("--batch", type=count, default=1, metavar="N")
    parser.add_argument("--threads", type=count, default=2, metavar="N")
    parser.add_argument("--seconds", type=positive, default=0.5, metavar="S", help="of a block of calls")
    parser.add_argument("--rounds", type=count, default=20, metavar="N")
    given = parser.parse_args(arguments)
    rows = [row for spin in (True, False) for row in measure(given, spin=spin)]
    print(*table(["", "alone, ms", "in turns, ms", "ratio"], rows), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
