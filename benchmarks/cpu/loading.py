"""What loading a bundle takes, in time and memory, in processes that do nothing else.

    python loading.py BUNDLE THREADS

prints JSON. In bytes: `weights`; proportional memory (`anonymous` and `file`, from /proc/self/smaps_rollup) `before`
anything is loaded but after the imports, after the `first` engine on the bundle was loaded and has answered once, and after
a `second`. In seconds, for the first engine: `load` with the check of every file, and `answer`, the first.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from vmoe_runtime import Engine


def measure_loading(bundle: Path, threads: int, processes: int) -> dict[str, Any]:
    """Runs this file on a bundle, in so many fresh processes after each other.

    Returns:
        What the last one prints, with the medians of all for seconds, and `first_over_weights` and `second_over_weights`:
        what each engine added, relative to the weights.

    Raises:
        BenchmarkError: a process failed.
    """
    every = [_measure_once(bundle, threads) for _ in range(processes)]
    taken = every[-1]
    for name in ("load", "answer"):
        taken["seconds"][name] = statistics.median(process["seconds"][name] for process in every)
    held = {when: sum(taken[when].values()) for when in ("before", "first", "second")}
    taken["first_over_weights"] = (held["first"] - held["before"]) / taken["weights"]
    taken["second_over_weights"] = (held["second"] - held["first"]) / taken["weights"]
    return taken


def _measure_once(bundle: Path, threads: int) -> dict[str, Any]:
    from cpu.errors import BenchmarkError  # this file also runs as a script, away from its package

    command = [sys.executable, __file__, str(bundle), str(threads)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it was killed"])[-1]
        raise BenchmarkError(f"loading {bundle} can't be measured: {reason}")
    taken: dict[str, Any] = json.loads(done.stdout)
    return taken


def held_memory() -> dict[str, int]:
    """Bytes that this process holds, anonymous and of files; pages that others hold, too, in equal parts."""
    lines = dict(re.findall(r"^(\w+):\s+(\d+) kB", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE))
    return {"anonymous": 1024 * int(lines["Pss_Anon"]), "file": 1024 * (int(lines["Pss"]) - int(lines["Pss_Anon"]))}


def main(bundle: Path, threads: int) -> None:
    """Loads the bundle twice and prints what that took."""
    import vmoe_runtime.backends.onnxruntime_cpu  # noqa: F401  (the runtime's code is no part of a bundle)

    taken: dict[str, Any] = {"weights": (bundle / "weights.safetensors").stat().st_size, "before": held_memory()}
    engines = []
    for which in ("first", "second"):
        start = time.perf_counter()
        engine = Engine.load(bundle, backend="onnxruntime", threads=threads)
        loaded = time.perf_counter()
        engines.append(engine)
        spec = engine.manifest.input
        engine(np.zeros((engine.manifest.batch_multiple, spec.height, spec.width, spec.channels), np.float32))
        taken.setdefault("seconds", {"load": loaded - start, "answer": time.perf_counter() - loaded})
        taken[which] = held_memory()
    print(json.dumps(taken))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
