"""Another installation of this engine beside this one: the same model in two processes, calls interleaved, many times anew.

    python benchmarks/installations.py OLD_SITE_PACKAGES BUNDLE [--old-bundle BUNDLE] [--new SITE_PACKAGES]
                                       [--batch 1 8] [--threads 2] [--profile c0.3-k1] [--rounds 15]
                                       [--processes 5] [--json FILE]

OLD_SITE_PACKAGES is what `pip install --target DIR old.whl` filled; ONNX Runtime is this Python's for both. An old version
that can't read the bundle of a new one takes its own by --old-bundle; the logits of both are compared by the sum of their
absolute values. Batch 0 stands for loading the bundle, every file checked, and answering once.

Where a process finds its memory is chance, and a short call takes up to 8 % more or less time for it, the same in every
round. So both are started anew again and again, and the ratio is the median over these pairs of processes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Self

from command_line import BenchmarkError, count, say, table
from cpu.timing import OthersWatch, time_interleaved

# What a process of an installation runs: it loads, says what it is, and answers each batch size on standard input with the
# seconds of a call and the sum over its logits' absolute values; 0 stands for loading anew and one batch.
_WORKER = """
import json, sys, time
given = json.loads(sys.argv[1])
sys.path[:0] = given["paths"]
import numpy as np
import vmoe_runtime
from vmoe_runtime.op_library import find_library
load = lambda: vmoe_runtime.Engine.load(
    given["bundle"], backend="onnxruntime", threads=given["threads"], profile=given["profile"])
engine, library = load(), find_library()
found = {"package": vmoe_runtime.__file__, "library": str(library) if library else None}
print(json.dumps({**found, "description": engine.backend_description}), flush=True)
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
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "sum": float(np.abs(logits).sum())}), flush=True)
"""


class Installation:
    """A process with an engine of an installation, in a folder as `pip install --target` fills it; None for this Python's.

    What the folder lacks, such as ONNX Runtime, is this Python's.

    Raises:
        BenchmarkError: it can't be started, or something of another installation would run.
    """

    def __init__(self, site_packages: Path | None, bundle: Path, threads: int, profile: str | None) -> None:
        folder = site_packages.resolve() if site_packages else None
        paths = [str(folder), *(path for path in sys.path if path)] if folder else []
        given = {"paths": paths, "bundle": str(bundle), "threads": threads, "profile": profile}
        # Without the site module no editable installation can come before the paths.
        command = [sys.executable, "-P", *(["-S"] if folder else []), "-c", _WORKER, json.dumps(given)]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self._process: Any = subprocess.Popen(command, text=True, **pipes)
        self.pid, self.sum = self._process.pid, 0.0
        found = self._read()
        self.description = f"{found['description']}, {found['library']}"
        for path in (found["package"], found["library"]):
            if folder and not Path(path or "").resolve().is_relative_to(folder):
                self._process.communicate()
                raise BenchmarkError(f"{folder} has no whole installation of vmoe-export: {path} would run")

    def call(self, batch: int) -> float:
        """Seconds of one call of `batch` images, whose sum stands in `sum` then; of 0, those of loading and one answer."""
        print(batch, file=self._process.stdin, flush=True)
        answer = self._read()
        self.sum = float(answer["sum"])
        return float(answer["seconds"])

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            said = self._process.communicate()[1].strip().splitlines()
            raise BenchmarkError(f"an installation stopped: {(said or ['it was killed'])[-1]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.communicate()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or 1 where something can't be measured."""
    parser = argparse.ArgumentParser(description="Times two installations of this engine, interleaved.")
    parser.add_argument("old", type=Path, metavar="OLD_SITE_PACKAGES")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--old-bundle", type=Path, metavar="BUNDLE", help="for the old one (default: the same)")
    parser.add_argument("--new", type=Path, metavar="SITE_PACKAGES", help="the new one's (default: this Python's)")
    parser.add_argument("--batch", nargs="+", type=int, default=[0, 1, 8], metavar="N", help="0 loads (default: 0 1 8)")
    parser.add_argument("--threads", type=count, default=2, metavar="N")
    parser.add_argument("--profile", help="default: the bundle's first, as the engine's")
    parser.add_argument("--rounds", type=count, default=15, metavar="N")
    parser.add_argument(
        "--processes", type=count, default=5, metavar="N", help="pairs of processes, each timed for all rounds"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    given = parser.parse_args(arguments)
    try:
        report = run(given)
    except (BenchmarkError, OSError) as error:
        say(f"error: {error}")
        return 1
    rows = [
        [
            f"batch {p['batch']}" if p["batch"] else "load",
            *(f"{median(p[which]) / max(p['batch'], 1):.3f}" for which in ("old", "new")),
            *(f"{p['ratio']:.3f}", f"{min(p['ratios']):.3f}-{max(p['ratios']):.3f}", f"{p['logits_ratio']:.6f}"),
        ]
        for p in report["points"]
    ]
    print(*table(["ms per image, medians", "old", "new", "old / new", "of pairs", "logits, new / old"], rows), sep="\n")
    print(f"old: {report['old']}; new: {report['new']}; other processes took {report['others_share']:.0%} of the machine")
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def run(given: argparse.Namespace) -> dict[str, Any]:
    """The figures of all pairs of processes: medians in ms, and ratios of medians."""
    points: list[dict[str, Any]] = [{"batch": batch, "old": [], "new": [], "ratios": []} for batch in given.batch]
    others_shares, names = [], {}
    for _ in range(given.processes):
        with (
            Installation(given.old, given.old_bundle or given.bundle, given.threads, given.profile) as old,
            Installation(given.new, given.bundle, given.threads, given.profile) as new,
        ):
            both = {"old": old, "new": new}
            calls = {(name, batch): partial(both[name].call, batch) for name in both for batch in given.batch}
            with OthersWatch([old.pid, new.pid]) as others:
                found = time_interleaved(calls, given.rounds)
            names = {name: installation.description for name, installation in both.items()}
            others_shares.append(others.share or 0)
            for point in points:
                for name, installation in both.items():
                    point[name].append(found[name, point["batch"]].median)
                    installation.call(point["batch"])
                point["ratios"].append(point["old"][-1] / point["new"][-1])
                point |= {"ratio": median(point["ratios"]), "logits_ratio": new.sum / old.sum}
    return {**names, "threads": given.threads, "others_share": median(others_shares), "points": points}


if __name__ == "__main__":
    sys.exit(main())
