"""Another installation of this engine beside this one: the same model in two processes, called in turns, many times anew.

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
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from cpu.busy import OthersWatch
from cpu.errors import BenchmarkError
from cpu.installations import LOADING, Installation, time_installations
from cpu.report import table

from vmoe_runtime.errors import VmoeError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or 1 where something can't be measured."""
    parser = argparse.ArgumentParser(description="Times two installations of this engine in turns.")
    parser.add_argument("old", type=Path, metavar="OLD_SITE_PACKAGES")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--old-bundle", type=Path, metavar="BUNDLE", help="for the old one (default: the same)")
    parser.add_argument("--new", type=Path, metavar="SITE_PACKAGES", help="the new one's (default: this Python's)")
    parser.add_argument("--batch", nargs="+", type=int, default=[LOADING, 1, 8], metavar="N")
    parser.add_argument("--threads", type=int, default=2, metavar="N")
    parser.add_argument("--profile", help="default: the bundle's first, as the engine's")
    parser.add_argument("--rounds", type=int, default=15, metavar="N")
    parser.add_argument(
        "--processes", type=int, default=5, metavar="N", help="pairs of processes, each timed for all rounds"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    given = parser.parse_args(arguments)
    try:
        report = _run(given)
    except (BenchmarkError, VmoeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    rows = [
        [
            f"batch {p['batch']}" if p["batch"] else "load",
            *(f"{median(p[which]) / max(p['batch'], 1):.3f}" for which in ("old", "new")),
            f"{p['ratio']:.3f}",
            f"{min(p['ratios']):.3f}-{max(p['ratios']):.3f}",
        ]
        for p in report["points"]
    ]
    print(*table(["ms per image, medians", "old", "new", "old / new", "of pairs"], rows), sep="\n")
    print(
        f"old: {report['old']}; new: {report['new']}; other processes took {report['others_share'] or 0:.0%} of the machine"
    )
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def _run(given: argparse.Namespace) -> dict[str, Any]:
    """The figures of all pairs of processes: medians in ms, and ratios of medians."""
    points: dict[int, dict[str, list[float]]] = {batch: {"old": [], "new": [], "ratios": []} for batch in given.batch}
    sums: dict[int, tuple[float, float]] = {}
    others_shares, names = [], {}
    for _ in range(given.processes):
        with (
            Installation(given.old, given.old_bundle or given.bundle, given.threads, given.profile) as old,
            Installation(given.new, given.bundle, given.threads, given.profile) as new,
        ):
            with OthersWatch([old.pid, new.pid]) as others:
                found = time_installations({"old": old, "new": new}, given.batch, given.rounds)
            names = {"old": f"{old.description}, {old.library}", "new": f"{new.description}, {new.library}"}
        others_shares.append(others.share or 0)
        for batch, point in points.items():
            (old_times, old_sum), (new_times, new_sum) = found["old", batch], found["new", batch]
            point["old"].append(old_times.median)
            point["new"].append(new_times.median)
            point["ratios"].append(old_times.median / new_times.median)
            sums[batch] = old_sum, new_sum
    return {
        **names,
        "threads": given.threads,
        "others_share": median(others_shares),
        "points": [
            {"batch": batch, **point, "ratio": median(point["ratios"]), "logits_ratio": sums[batch][1] / sums[batch][0]}
            for batch, point in points.items()
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
