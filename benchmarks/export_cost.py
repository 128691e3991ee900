"""What an export costs: time and memory to write a bundle, to load it, and to serve several profiles from it.

    python benchmarks/export_cost.py [CHECKPOINT] [--precision int8] [--json FILE]

Without a checkpoint it makes a random V-MoE B/16 (E=8, Every 2), which the bars are for. Every number is from
a fresh process. Memory is anonymous memory (RssAnon of /proc/PID/status), so mapped files don't count.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

CAPACITY = (0.3, 0.5, 1.05)
PROFILES = tuple(f"c{ratio}-k1" for ratio in CAPACITY)
SAMPLE_SECONDS = 0.02
RANDOM_CHECKPOINT = Path(__file__).parents[1] / "samples" / "random_checkpoint.py"


class MeasurementError(Exception):
    """A measured process failed. Carries one sentence for the person who ran it."""


@dataclass(frozen=True)
class Row:
    """One number, the bar that it should stay under (or at), and its unit."""

    name: str
    value: float
    bar: float | None
    unit: str

    def text(self) -> str:
        """The row as a line of the table."""
        if self.bar is None:
            return f"{self.name:<52}{self.value:>10.3f} {self.unit}"
        verdict = "ok" if self.value <= self.bar else "MISSED"
        return f"{self.name:<52}{self.value:>10.3f} {self.unit:<4} bar {self.bar:<8g}{verdict}"


def anonymous_bytes(pid: int | str = "self") -> int:
    """Resident anonymous memory of a process, in bytes; 0 once it has ended."""
    try:
        match = re.search(r"^RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(match[1]) * 1024 if match else 0


def export_once(checkpoint: str, bundle: str, precision: str) -> dict[str, Any]:
    """Exports without validation; seconds include the imports."""
    start = time.perf_counter()
    from vmoe_export import export_bundle  # a part of what is measured

    result = export_bundle(checkpoint, bundle, validate=False, capacity=CAPACITY, k=[1], precision=precision)
    seconds = time.perf_counter() - start
    stored = sum(path.stat().st_size for path in result.path.iterdir())
    return {"seconds": seconds, "bundle_bytes": stored, "weight_bytes": result.plan.weight_bytes}


def serve_once(bundle: str, profiles: Sequence[str], backend: str) -> dict[str, Any]:
    """Loads a bundle and answers one image at each profile; memory is what the process holds afterwards."""
    from vmoe_runtime import Engine  # the exporting process has no use for it

    start = time.perf_counter()
    engine = Engine.load(bundle, backend=backend)
    seconds = time.perf_counter() - start
    spec = engine.manifest.input
    shape = engine.manifest.batch_multiple, spec.height, spec.width, spec.channels
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for profile in profiles:
        engine(image, profile=profile)
    return {"seconds": seconds, "anonymous": anonymous_bytes(), "backend": engine.backend_description}


def measure(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Calls `work` in a fresh process and adds its peak anonymous memory in bytes, as `peak`.

    Raises:
        MeasurementError: the process failed.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_result, args=(sender, work, arguments))
    process.start()
    sender.close()
    peak = 0
    # The result arrives before the process ends; what it holds while it ends is no part of the work.
    while not receiver.poll(SAMPLE_SECONDS):
        peak = max(peak, anonymous_bytes(process.pid or 0))
    try:
        result, problem = receiver.recv()
    except EOFError:
        result, problem = None, "it was killed"
    process.join()
    if result is None:
        raise MeasurementError(f"{work.__name__.replace('_', ' ')} failed: {problem}")
    return {**result, "peak": max(peak, result.get("anonymous", 0))}


def _send_result(sender: Connection, work: Callable[..., dict[str, Any]], arguments: Sequence[Any]) -> None:
    try:
        sender.send((work(*arguments), None))
    except Exception as error:
        sender.send((None, str(error) or type(error).__name__))


def run(checkpoint: Path, folder: Path, backend: str, precision: str) -> tuple[list[Row], dict[str, Any]]:
    """Takes all numbers of a sparse checkpoint; the bundle is written into `folder`.

    Returns:
        The table, and the measurements as they were taken.
    """
    bundle = str(folder / "measured.vmoe")
    export = measure(export_once, str(checkpoint), bundle, precision)
    single = {profile: measure(serve_once, bundle, [profile], backend) for profile in PROFILES}
    together = measure(serve_once, bundle, PROFILES, backend)
    loads = [served["seconds"] for served in (*single.values(), together)]
    # The strictest comparison: with the profile that needs least alone.
    least = min(served["anonymous"] for served in single.values())
    rows = [
        Row("export: wall time, with imports", export["seconds"], 40, "s"),
        Row("export: peak anonymous memory", export["peak"] / 1e6, 700, "MB"),
        Row("bundle bytes / weight bytes", export["bundle_bytes"] / export["weight_bytes"], 1.01, "x"),
        Row("weights", export["weight_bytes"] / 1e6, None, "MB"),
        Row(f"load: wall time, slowest of {len(loads)}", max(loads), 4, "s"),
        *(
            Row(f"engine: anonymous memory after {profile}", served["anonymous"] / 1e6, None, "MB")
            for profile, served in single.items()
        ),
        Row("engine: anonymous memory after all three", together["anonymous"] / 1e6, None, "MB"),
        Row("engine: all three / the smallest single one", together["anonymous"] / least, 1.02, "x"),
    ]
    return rows, {"export": export, "single_profile": single, "three_profiles": together}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or 1 where something could not be measured."""
    parser = argparse.ArgumentParser(description="Measures what an export costs in time, memory and disk.")
    parser.add_argument("checkpoint", nargs="?", type=Path, help="default: a random B/16")
    parser.add_argument("--backend", default="auto", help="what serves the bundle (default: auto)")
    parser.add_argument("--precision", default="fp32", help="of the bundle; the bars are for fp32 (default)")
    parser.add_argument("--folder", type=Path, help="where the temporary files go")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    given = parser.parse_args(arguments)
    machine = {"platform": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()}
    try:
        with tempfile.TemporaryDirectory(prefix="export_cost.", dir=given.folder) as folder:
            checkpoint = given.checkpoint
            if checkpoint is None:
                checkpoint = Path(folder, "b16")
                command = [sys.executable, str(RANDOM_CHECKPOINT), str(checkpoint), "--variant", "B/16"]
                subprocess.run([*command, "--experts", "8", "--layers", "Every 2"], check=True)
            rows, measured = run(checkpoint, Path(folder), given.backend, given.precision)
        print(*(row.text() for row in rows), sep="\n")
        print(f"backend: {measured['three_profiles']['backend']}; {machine['cores']} cores")
        if given.json:
            content = {"machine": machine, "rows": [asdict(row) for row in rows], "measured": measured}
            given.json.write_text(json.dumps(content, indent=1) + "\n")
    except subprocess.CalledProcessError:
        return 1  # it has said why
    except (MeasurementError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
