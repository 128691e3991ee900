"""What `vmoe-bench` and the engine add to a bare loop around the runtime's session, interleaved.

    python benchmarks/bench_overhead.py BUNDLE [--batch 1 16] [--threads 2] [--duration 10]

The bare loop has its inputs ready; `vmoe-bench` hands images and the name of a profile to the engine, as it does when it
measures. Each is called CALLS times before the other is: a loop of one kind is what both are in use, and calls that
alternate cost each other what caches and branch predictors had learned.
"""

from __future__ import annotations

import argparse
import sys
import timeit
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from command_line import count, positive, table

from vmoe_measure.image_source import synthetic_images
from vmoe_measure.timing import time_interleaved
from vmoe_runtime.backends import Parallelism
from vmoe_tools.bench.points import named_profiles, plan_points
from vmoe_tools.command_line import CommandError, run_command
from vmoe_tools.engines import load_engines

CALLS = 100


def measure(bundle: Path, batch: int, threads: int, duration: float) -> list[str]:
    """A row: median milliseconds of a call as `vmoe-bench` makes it and of a bare one, and their ratio."""
    with ExitStack() as closing:
        engines = load_engines([bundle], [], ["onnxruntime"], [], Parallelism(threads), closing)
        point = plan_points(engines, lambda engine: named_profiles(engine, ()), [batch])[0]
        engine = point.engine
        images = synthetic_images(batch, engine.manifest.input).first_batch(batch, engine.manifest.input)
        feeds = {"image": images} | (dict(point.profile.inputs()) if point.profile else {})
        bare = partial(engine._backend._session.run, [engine.manifest.output], feeds)
        if not np.array_equal(bare()[0], point.logits(images)):
            raise CommandError(f"{bundle}: the bare session answers otherwise")
        calls = [partial(point.logits, images), bare]
        taken = time_interleaved([partial(timeit.timeit, call, number=CALLS) for call in calls], duration)
    bench, alone = (float(np.median(seconds)) / CALLS * 1e3 for seconds in taken)
    return [str(batch), f"{bench:.4f}", f"{alone:.4f}", f"{bench / alone:.3f}"]


def run(arguments: Sequence[str]) -> None:
    """Reads the command line, measures and prints."""
    parser = argparse.ArgumentParser(description="Times vmoe-bench and a bare session, interleaved.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--batch", nargs="+", type=count, default=[1, 16], metavar="N")
    parser.add_argument("--threads", type=count, default=2, metavar="N")
    parser.add_argument("--duration", type=positive, default=10.0, metavar="SECONDS", help="for each batch size")
    given = parser.parse_args(arguments)
    rows = [measure(given.bundle, batch, given.threads, given.duration) for batch in given.batch]
    print(*table(["batch", "vmoe-bench, ms a call", "bare session", "ratio"], rows), sep="\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or 1 where something can't be measured."""
    return run_command("bench_overhead.py", run, arguments)


if __name__ == "__main__":
    sys.exit(main())
