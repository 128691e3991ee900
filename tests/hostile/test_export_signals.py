"""Check that a signal ends `vmoe export` with one line and exit code 128 + the signal's number.

No files may be left. If the process is killed, it must leave either a whole bundle or none.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from terminal import default_signals

pytestmark = pytest.mark.long

HARNESS = Path(__file__).parents[1] / "support" / "export_kills.py"


@pytest.mark.slow
def test_kills_and_signals_at_random_moments() -> None:
    command = [sys.executable, HARNESS, "--kills", "6", "--signals", "9"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=default_signals)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["failures"] == 0
