"""What a loaded bundle holds in memory, taken in a process that does nothing else.

    python memory.py BUNDLE THREADS

prints JSON, all in bytes: `weights`; resident memory (`anonymous` and `file`, from /proc/self/smaps_rollup) `before`
anything is loaded, after the `first` engine on the bundle was loaded and has answered once, and after a `second`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from vmoe_runtime import Engine


def measure_memory(bundle: Path, threads: int) -> dict[str, Any]:
    """Runs this file on a bundle, in a fresh process.

    Returns:
        What it prints, with `first_over_weights` and `second_over_weights`: what each engine added, relative to the
        weights.

    Raises:
        BenchmarkError: the process failed.
    """
    from cpu.errors import BenchmarkError  # this file also runs as a script, away from its package

    command = [sys.executable, __file__, str(bundle), str(threads)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it was killed"])[-1]
        raise BenchmarkError(f"the memory of {bundle} can't be measured: {reason}")
    taken: dict[str, Any] = json.loads(done.stdout)
    resident = {when: sum(taken[when].values()) for when in ("before", "first", "second")}
    taken["first_over_weights"] = (resident["first"] - resident["before"]) / taken["weights"]
    taken["second_over_weights"] = (resident["second"] - resident["first"]) / taken["weights"]
    return taken


def resident() -> dict[str, int]:
    """Resident bytes of this process, anonymous and of files."""
    lines = dict(re.findall(r"^(\w+):\s+(\d+) kB", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE))
    whole, anonymous = 1024 * int(lines["Rss"]), 1024 * int(lines["Anonymous"])
    return {"anonymous": anonymous, "file": whole - anonymous}


def main(bundle: Path, threads: int) -> None:
    """Loads the bundle twice and prints what that took."""
    import vmoe_runtime.backends.onnxruntime_cpu  # noqa: F401  (the runtime's code is no part of a bundle)

    taken: dict[str, Any] = {"weights": (bundle / "weights.safetensors").stat().st_size, "before": resident()}
    engines = []
    for which in ("first", "second"):
        engine = Engine.load(bundle, backend="onnxruntime", threads=threads)
        engines.append(engine)
        spec = engine.manifest.input
        engine(np.zeros((engine.manifest.batch_multiple, spec.height, spec.width, spec.channels), np.float32))
        taken[which] = resident()
    print(json.dumps(taken))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
