"""Run the kernels under compute-sanitizer.

Its tools detect memory errors, races in shared memory, barriers that not all threads reach, and reads of uninitialized
memory.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from on_gpu.check import Check
from on_gpu.library import find_program

TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
MISSING = "compute-sanitizer isn't installed (it comes with the CUDA toolkit)"
_SECONDS = 220
_FOUND_ERRORS = 77  # the sanitizer exits with this code after errors; the program itself never does


def find_sanitizer() -> Path | None:
    """Return the path of compute-sanitizer, or None if it is not installed."""
    return find_program("compute-sanitizer")


def run_watched(tool: list[str], library: Path, layers: int, seed: int, name: str) -> Check:
    """Run `on_gpu.watched` under the command `tool`. If `tool` is empty, run it directly.

    If the run fails, the message of the returned check contains the run's output.
    """
    command = [*tool, sys.executable, "-m", "on_gpu.watched", str(library.resolve()), str(layers), str(seed)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return Check(name, layers, (f"it took more than {_SECONDS} s",))
    if done.returncode == 0:
        return Check(name, layers, ())
    lines = (done.stderr + done.stdout).strip().splitlines()
    return Check(name, layers, (f"exit code {done.returncode}: " + " | ".join(line.strip() for line in lines[-20:]),))


def run_tool(sanitizer: Path, tool: str, library: Path, layers: int, seed: int) -> Check:
    """Run `on_gpu.watched` under one of TOOLS."""
    line = [str(sanitizer), "--tool", tool, "--error-exitcode", str(_FOUND_ERRORS), "--print-limit", "20"]
    return run_watched(line, library, layers, seed, f"compute-sanitizer {tool}")
