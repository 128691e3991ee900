"""Ctrl-C while a tool is still importing what it needs is one line and 130, as it is later."""

from __future__ import annotations

import subprocess
import sys

import pytest
from terminal import default_signals

PROGRAM = """
import os, signal, sys

class Finder:
    def find_spec(self, name, *_):
        if name == "numpy":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
from importlib import import_module
sys.exit(import_module(sys.argv[1] + ".__main__").main())
"""


@pytest.mark.parametrize("tool", ["vmoe_bench", "vmoe_build", "vmoe_run", "vmoe_inspect"])
def test_ctrl_c_during_the_imports(tool: str) -> None:
    command = [sys.executable, "-c", PROGRAM, tool]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=default_signals)
    assert (done.returncode, done.stderr) == (130, f"{tool.replace('_', '-')}: interrupted\n")
