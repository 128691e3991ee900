"""What an export costs: time and memory to write a bundle, to load it, and to serve several profiles from it.

    python benchmarks/export_cost.py [CHECKPOINT] [--precision int8]

Without a checkpoint it makes a random V-MoE B/16 (E=8, Every 2), which the bars are for. Every number is from
a fresh process. Memory is anonymous memory (RssAnon of /proc/PID/status), so mapped files don't count.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from command_line import BenchmarkError

CAPACITY = (0.3, 0.5, 1.05)
PROFILES = tuple(f"c{ratio}-k1" for ratio in CAPACITY)
RANDOM_CHECKPOINT = Path(__file__).parents[1] / "samples" / "random_checkpoint.py"


def anonymous_bytes(pid: int | str = "self") -> int:
    """Resident anonymous memory of a process, in bytes; 0 once it has ended."""
    try:
        match = re.search(r"^RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(match[1]) * 1024 if match else 0


def export_once(checkpoint: str, bundle: str, precision: str, validate: bool) -> dict[str, Any]:
    """Exports with or without validation; seconds include the imports."""
    start = time.perf_counter()
    from vmoe_export import export_bundle  # a part of what is measured

    result = export_bundle(checkpoint, bundle, validate=validate, capacity=CAPACITY, k=[1], precision=precision, force=True)
    stored = sum(path.stat().st_size for path in result.path.iterdir())
    return {"seconds": time.perf_counter() - start, "stored": stored, "weights": result.plan.weight_bytes}


def serve_once(bundle: str, profiles: Sequence[str]) -> dict[str, Any]:
    """Loads a bundle and answers one image at each profile; memory is what the process holds afterwards."""
    from vmoe_runtime import Engine  # the exporting process has no use for it

    start = time.perf_counter()
    engine = Engine.load(bundle)
    seconds = time.perf_counter() - start
    for profile in profiles:
        engine(np.zeros((engine.manifest.batch_multiple, *engine.manifest.input.size), np.uint8), profile=profile)
    return {"seconds": seconds, "anonymous": anonymous_bytes(), "backend": engine.backend_description}


def measure(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Calls `work` in a fresh process and adds its peak anonymous memory in bytes, as `peak`.

    Raises:
        BenchmarkError: it failed.
    """
    peak = 0
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        pid, future = process.submit(os.getpid).result(), process.submit(work, *arguments)
        while not wait([future], 0.02).done:
            peak = max(peak, anonymous_bytes(pid))
        try:
            return {**future.result(), "peak": peak}
        except Exception as error:
            raise BenchmarkError(f"{work.__name__.replace('_', ' ')} failed: {error}") from None


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the command line, measures and prints."""
    parser = argparse.ArgumentParser(description="Measures what an export costs in time, memory and disk.")
    parser.add_argument("checkpoint", nargs="?", type=Path, help="default: a random B/16")
    parser.add_argument("--precision", default="fp32", help="of the bundle; the bars are for fp32 (default)")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="export_cost.") as folder:
        checkpoint, bundle = given.checkpoint or f"{folder}/b16", f"{folder}/measured.vmoe"
        if given.checkpoint is None:
            command = [sys.executable, str(RANDOM_CHECKPOINT), checkpoint, "--variant", "B/16"]
            if subprocess.run([*command, "--experts", "8", "--layers", "Every 2"], check=False).returncode != 0:
                raise BenchmarkError("the random checkpoint can't be written")
        validated = measure(export_once, str(checkpoint), bundle, given.precision, True)
        export = measure(export_once, str(checkpoint), bundle, given.precision, False)
        single = {profile: measure(serve_once, bundle, [profile]) for profile in PROFILES}
        together = measure(serve_once, bundle, PROFILES)
    # The strictest comparison: with the profile that needs least alone.
    least = min(served["anonymous"] for served in single.values())
    rows: list[tuple[str, float, str, float | None]] = [
        ("export: wall time, with imports", export["seconds"], "s", 40),
        ("export: peak anonymous memory", export["peak"] / 1e6, "MB", 700),
        ("the same with validation: wall time", validated["seconds"], "s", None),
        ("the same with validation: peak anonymous memory", validated["peak"] / 1e6, "MB", 1500),
        ("bundle bytes / weight bytes", export["stored"] / export["weights"], "x", 1.01),
        ("weights", export["weights"] / 1e6, "MB", None),
        ("load: wall time, the slowest", max(served["seconds"] for served in (*single.values(), together)), "s", 4),
        *((f"engine: anonymous memory after {name}", s["anonymous"] / 1e6, "MB", None) for name, s in single.items()),
        ("engine: anonymous memory after all three", together["anonymous"] / 1e6, "MB", None),
        ("engine: all three / the smallest single one", together["anonymous"] / least, "x", 1.02),
    ]
    for name, value, unit, bar in rows:
        verdict = "" if bar is None else f" bar {bar:<8g}{'ok' if value <= bar else 'MISSED'}"
        print(f"{name:<52}{value:>10.3f} {unit:<4}{verdict}".rstrip())
    print(f"backend: {together['backend']}; {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
