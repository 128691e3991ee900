"""The kernels under compute-sanitizer: memory errors, races in shared memory, barriers that not all threads reach."""

from __future__ import annotations

import subprocess
from pathlib import Path

from gpu.checks import Check
from gpu.library import find_program

TOOLS = ("memcheck", "racecheck", "synccheck")
LAYERS = 40
MISSING = "compute-sanitizer isn't installed (it comes with the CUDA toolkit)"
_SECONDS = 1800
_FOUND_ERRORS = 77  # the sanitizer's own exit code, which the program doesn't use


def find_sanitizer() -> Path | None:
    """compute-sanitizer, if it is installed."""
    return find_program("compute-sanitizer")


def sanitizer_command(sanitizer: Path, tool: str, checker: Path, layers: int, seed: int) -> list[str]:
    """The line that runs the checker under one of TOOLS."""
    options = ["--tool", tool, "--error-exitcode", str(_FOUND_ERRORS), "--print-limit", "20"]
    return [str(sanitizer), *options, str(checker), str(layers), str(seed)]


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


def run_sanitizer(sanitizer: Path, checker: Path, seed: int) -> list[Check]:
    """All tools, and the checker without any before them."""
    checks = [run_checker([str(checker), str(LAYERS), str(seed)], "kernels without torch", LAYERS)]
    for tool in TOOLS:
        command = sanitizer_command(sanitizer, tool, checker, LAYERS, seed)
        checks.append(run_checker(command, f"compute-sanitizer {tool}", LAYERS))
    return checks
