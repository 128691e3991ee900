"""Signals end `vmoe export` with one line and 128 + the number, and leave nothing; a kill leaves a whole bundle or none."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from damaged_files import DENSE
from terminal import default_signals

pytestmark = pytest.mark.long

HARNESS = Path(__file__).parents[1] / "support" / "export_kills.py"

# The process signals itself at a moment.
PROGRAM = """
import os, sys

def hit(*_, **__):
    os.kill(os.getpid(), NUMBER)

MOMENT
from vmoe_tools.program import main_of_export
sys.exit(main_of_export())
"""
PLANNING = "import vmoe_export.command as module; module.plan_export = hit"
WRITING = "import vmoe_export.bundle.weights_file as module; module._layout = hit"
GRAPHS = "import vmoe_export.graphs.graph_files as module; module.ModelNodes = hit"


def end(folder: Path, moment: str, number: signal.Signals) -> tuple[int, str]:
    """Exit code and standard error of an export that gets a signal at a moment."""
    program = PROGRAM.replace("MOMENT", moment).replace("NUMBER", str(int(number)))
    command = [sys.executable, "-c", program, str(DENSE), "-o", str(folder / "x.vmoe"), "--no-validate", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=default_signals)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("moment", "number", "line"),
    [
        (PLANNING, signal.SIGHUP, "ended by SIGHUP"),
        (WRITING, signal.SIGTERM, "ended by SIGTERM"),
        (GRAPHS, signal.SIGINT, "interrupted"),
    ],
    ids=["planning", "writing weights", "writing graphs"],
)
def test_a_signal_ends_the_export(moment: str, number: signal.Signals, line: str, tmp_path: Path) -> None:
    code, error = end(tmp_path, moment, number)
    assert (code, error.strip()) == (128 + number, f"vmoe: {line}")
    assert list(tmp_path.iterdir()) == []


def test_kills_and_signals_at_random_moments() -> None:
    command = [sys.executable, HARNESS, "--kills", "6", "--signals", "6", "--swaps", "30"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=default_signals)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["failures"] == 0
