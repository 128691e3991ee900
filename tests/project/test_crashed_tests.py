"""Check that a test that crashes its process counts as one failed test, and that the remaining tests still run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import sdk_build

SUPPORT = Path(__file__).parents[1] / "support"
TESTS = """
import signal

def test_before(): pass
def test_that_crashes(): signal.raise_signal(signal.SIGSEGV)
def test_after(): pass
"""


@pytest.mark.slow
def test_a_crash_fails_one_test_and_the_others_run(tmp_path: Path) -> None:
    for name in ("test_one.py", "test_two.py"):
        (tmp_path / name).write_text(TESTS)
    plugins = ["-p", "xdist.plugin", "-p", "crash_scheduling", "-p", "no:faulthandler"]
    command = (sys.executable, "-m", "pytest", *plugins, "-n", "2", "--dist", "loadgroup")
    done = sdk_build.run(*command, folder=tmp_path, PYTHONPATH=str(SUPPORT), PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert done.returncode == 1 and "2 failed, 4 passed" in done.stdout.splitlines()[-1], done.stdout + done.stderr
