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


def run_tool(sanitizer: Path, tool: str, library: Path, calls: int, seed: int) -> Check:
    """Run `on_gpu.watched` under one of TOOLS. If the run fails, the check's message contains its output."""
    name = f"compute-sanitizer {tool}"
    command = [str(sanitizer), "--tool", tool, "--error-exitcode", str(_FOUND_ERRORS), "--print-limit", "20"]
    command += [sys.executable, "-m", "on_gpu.watched", str(library.resolve()), str(calls), str(seed)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return Check(name, calls, (f"it took more than {_SECONDS} s",))
    if done.returncode == 0:
        return Check(name, calls, ())
    lines = (done.stderr + done.stdout).strip().splitlines()
    return Check(name, calls, (f"exit code {done.returncode}: " + " | ".join(line.strip() for line in lines[-20:]),))
