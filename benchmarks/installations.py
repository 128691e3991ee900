"""Another installation of this engine beside this one: the same model in two processes, calls interleaved, many times anew.

    python benchmarks/installations.py OLD_SITE_PACKAGES BUNDLE [--old-bundle BUNDLE] [--batch 0 --batch 1 --batch 8]
                                       [--threads 2] [--profile c0.3-k1] [--rounds 15] [--processes 5]

OLD_SITE_PACKAGES is what `pip install --target DIR old.whl` filled; what it lacks, such as ONNX Runtime, is this Python's.
An old version that can't read the bundle of a new one takes its own by --old-bundle; the logits of both are compared by the
sum of their absolute values. Batch 0 stands for loading the bundle, every file checked, and answering once.

Where a process finds its memory is chance, and a short call takes up to 8 % more or less time for it, the same in every
round. So both are started anew again and again, and the ratio is the median over these pairs of processes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from command_line import BenchmarkError, count, say, table
from cpu.timing import OthersWatch, time_interleaved

# What a process of an installation runs: it loads, says what it is, and answers each batch size on standard input with the
# seconds of a call and the sum over its logits' absolute values; 0 stands for loading anew and one batch.
_WORKER = """
import json, sys, time
from pathlib import Path
given = json.loads(sys.argv[1])
folder = given["folder"]
sys.path[:0] = given["paths"]
import numpy as np
import vmoe_runtime
from vmoe_runtime.op_library import find_library
for path in (vmoe_runtime.__file__, find_library()):
    if folder and not Path(path or "").resolve().is_relative_to(folder):
        sys.exit(f"{folder} has no whole installation of vmoe-export: {path} would run")
load = lambda: vmoe_runtime.Engine.load(
    given["bundle"], backend="onnxruntime", threads=given["threads"], profile=given["profile"])
engine = load()
print(json.dumps(f"{engine.backend_description}, {find_library()}"), flush=True)
spec = engine.manifest.input
for line in sys.stdin:
    batch = int(line)
    shape = batch or engine.manifest.batch_multiple, spec.height, spec.width, spec.channels
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    if not batch:
        engine.close()
    start = time.perf_counter()
    if not batch:
        engine = load()
    logits = engine(images)
    print(json.dumps([time.perf_counter() - start, float(np.abs(logits).sum())]), flush=True)
"""


def start(site_packages: Path | None, bundle: Path, threads: int, profile: str | None) -> Any:
    """A process with an engine of an installation in a folder, of `pip install --target`; None for this Python's."""
    folder = str(site_packages.resolve()) if site_packages else None
    given = {"folder": folder, "bundle": str(bundle), "threads": threads, "profile": profile}
    given["paths"] = [folder, *filter(None, sys.path)] if folder else []
    # Without the site module no editable installation can come before the paths.
    command = [sys.executable, "-P", *(["-S"] if folder else []), "-c", _WORKER, json.dumps(given)]
    return subprocess.Popen(command, text=True, **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE))


def ask(process: Any, batch: int | None = None) -> Any:
    """Seconds of a call of `batch` images and the sum of its logits; without a batch, what a process that starts is.

    Raises:
        BenchmarkError: it has ended, such as one that would run something of another installation.
    """
    if batch is not None:
        print(batch, file=process.stdin, flush=True)
    line = process.stdout.readline()
    if not line:
        said = process.communicate()[1].strip().splitlines()
        raise BenchmarkError(f"an installation stopped: {(said or ['it was killed'])[-1]}")
    return json.loads(line)


def time_pair(given: argparse.Namespace) -> list[tuple[float, float, float, float]]:
    """Median milliseconds of the old and the new one, new logits over old, and the others' share; for each batch size."""
    options = given.threads, given.profile
    with start(given.old, given.old_bundle or given.bundle, *options) as old, start(None, given.bundle, *options) as new:
        say(f"old: {ask(old)}; new: {ask(new)}")
        # What a call returns first are the seconds that count.
        calls = {(which, batch): lambda w=which, b=batch: ask(w, b)[0] for which in (old, new) for batch in given.batch}
        with OthersWatch([old.pid, new.pid]) as others:
            times = time_interleaved(calls, given.rounds)
        medians = {key: float(np.median(ms)) for key, ms in times.items()}
        logits = {batch: ask(new, batch)[1] / ask(old, batch)[1] for batch in given.batch}
        return [(medians[old, batch], medians[new, batch], logits[batch], others.share) for batch in given.batch]


def summary(batches: Sequence[int], pairs: np.ndarray) -> list[str]:
    """The table: medians over pairs of processes, f64[pairs, batches, 4], of what `time_pair` gives."""
    rows = []
    for batch, (old, new, logits, _) in zip(batches, pairs.transpose(1, 2, 0), strict=True):
        ratios, images = old / new, max(batch, 1)
        times = [f"{np.median(ms) / images:.3f}" for ms in (old, new)]
        spread = f"{ratios.min():.3f}-{ratios.max():.3f}"
        rows.append([f"batch {batch}" if batch else "load", *times, f"{np.median(ratios):.3f}", spread, f"{logits[-1]:.6f}"])
    head = ["ms per image, medians", "old", "new", "old / new", "of pairs", "logits, new / old"]
    return [*table(head, rows), f"Other processes took {np.median(pairs[..., 3]):.0%} of the machine."]


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line, measures and prints; returns 0."""
    parser = argparse.ArgumentParser(description="Times two installations of this engine, interleaved.")
    add = parser.add_argument
    add("old", type=Path, metavar="OLD_SITE_PACKAGES")
    add("bundle", type=Path)
    add("--old-bundle", type=Path, metavar="BUNDLE", help="for the old one (default: the same)")
    add("--batch", action="append", type=int, metavar="N", help="repeats; 0 loads (default: 0, 1 and 8)")
    add("--threads", type=count, default=2, metavar="N")
    add("--profile", help="default: the bundle's first, as the engine's")
    add("--rounds", type=count, default=15, metavar="N")
    add("--processes", type=count, default=5, metavar="N", help="pairs of processes, each for all rounds")
    given = parser.parse_args(arguments)
    given.batch = given.batch or [0, 1, 8]
    pairs = [time_pair(given) for _ in range(given.processes)]
    print(*summary(given.batch, np.array(pairs)), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
