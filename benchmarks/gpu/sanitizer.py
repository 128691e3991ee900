"""The kernels under compute-sanitizer: memory errors, races in shared memory, barriers that not all threads reach, and what
is read before anything wrote it.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from gpu.library import find_program
from gpu.report import Check

TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
MISSING = "compute-sanitizer isn't installed (it comes with the CUDA toolkit)"
LAYERS = 40
_SECONDS = 220
_FOUND_ERRORS = 77  # the sanitizer's own exit code, which the program doesn't use


def find_sanitizer() -> Path | None:
    """compute-sanitizer, if it is installed."""
    return find_program("compute-sanitizer")


def run_checker(command: list[str], name: str, layers: int) -> Check:
    """Runs the checker, alone or under a tool; what it printed is the failure."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return Check(name, layers, (f"it took more than {_SECONDS} s",))
    failures: tuple[str, ...] = ()
    if done.returncode != 0:
        lines = (done.stderr + done.stdout).strip().splitlines()
        failures = (f"exit code {done.returncode}: " + " | ".join(line.strip() for line in lines[-20:]),)
    return Check(name, layers, failures)


def run_tool(sanitizer: Path, tool: str, checker: Path, layers: int, seed: int) -> list[Check]:
    """The checker under one of TOOLS, which must first have seen a fault that was planted for it."""
    options = ["--tool", tool, "--error-exitcode", str(_FOUND_ERRORS), "--print-limit", "20"]
    line = [str(sanitizer), *options, str(checker)]
    name = f"compute-sanitizer {tool}"
    (planted,) = run_checker([*line, "plant", tool], name, 1).failures or ("exit code 0",)
    unseen = () if planted.startswith(f"exit code {_FOUND_ERRORS}:") else (f"it is not reported ({planted})",)
    # Memory that was spoilt counts as written.
    watched = [*line, str(layers), str(seed), *(["fresh"] if tool == "initcheck" else [])]
    return [Check(f"{name}, planted fault", 1, unseen), run_checker(watched, name, layers)]
