"""The kernels under compute-sanitizer: memory errors, races in shared memory, barriers that not all threads reach, and what
is read before anything wrote it.
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
_FOUND_ERRORS = 77  # the sanitizer's own exit code, which the program doesn't use


def find_sanitizer() -> Path | None:
    """compute-sanitizer, if it is installed."""
    return find_program("compute-sanitizer")


def run_watched(tool: list[str], library: Path, what: tuple[str, str], name: str, layers: int) -> Check:
    """Runs `on_gpu.watched`, alone or under a tool; what it printed is the failure."""
    command = [*tool, sys.executable, "-m", "on_gpu.watched", str(library.resolve()), *what]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return Check(name, layers, (f"it took more than {_SECONDS} s",))
    if done.returncode == 0:
        return Check(name, layers, ())
    lines = (done.stderr + done.stdout).strip().splitlines()
    return Check(name, layers, (f"exit code {done.returncode}: " + " | ".join(line.strip() for line in lines[-20:]),))


def run_tool(sanitizer: Path, tool: str, library: Path, layers: int, seed: int) -> list[Check]:
    """`on_gpu.watched` under one of TOOLS, which must first have seen a fault that was planted for it."""
    line = [str(sanitizer), "--tool", tool, "--error-exitcode", str(_FOUND_ERRORS), "--print-limit", "20"]
    name = f"compute-sanitizer {tool}"
    (planted,) = run_watched(line, library, ("plant", tool), name, 1).failures or ("exit code 0",)
    unseen = () if planted.startswith(f"exit code {_FOUND_ERRORS}:") else (f"it is not reported ({planted})",)
    watched = run_watched(line, library, (str(layers), str(seed)), name, layers)
    return [Check(f"{name}, planted fault", 1, unseen), watched]
