"""Ctrl-C, SIGTERM and SIGHUP end `vmoe-export` at any moment: one line, 128 + the number, nothing left. So does a kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from damaged_files import DENSE
from terminal import default_signals

pytestmark = pytest.mark.long

HARNESS = Path(__file__).with_name("export_kills.py")

# The process signals itself, inside code that would swallow an exception or make a traceback of it.
PROGRAM = """
import os, sys

def hit(*_, **__):
    try:
        os.kill(os.getpid(), NUMBER)
        sum(range(100))
    except BaseException:
        print("swallowed", file=sys.stderr)

class Finder:
    def find_spec(self, name, *_):
        if name == "torch":
            hit()

MOMENT
from vmoe_export.cli import main
sys.argv[0] = "vmoe-export"
main()
"""
IMPORT = "sys.meta_path.insert(0, Finder())"
PLANNING = "import vmoe_export.arguments as module; module.plan_export = hit"
WRITING = "import vmoe_export.bundle.weights_file as module; module._layout = hit"
GRAPHS = "import vmoe_export.graphs.graph_files as module; module.canonical_graph = hit"
REMOVING = f"""
import shutil
remove = shutil.rmtree
shutil.rmtree = lambda *arguments, **settings: (hit(), remove(*arguments, **settings))
{WRITING}"""


def end(folder: Path, moment: str, number: signal.Signals, before: Callable[[], None] = default_signals) -> tuple[int, str]:
    """Exit code and standard error of an export that gets a signal at a moment."""
    program = PROGRAM.replace("MOMENT", moment).replace("NUMBER", str(int(number)))
    command = [sys.executable, "-c", program, str(DENSE), "-o", str(folder / "x.vmoe"), "--no-validate", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=before)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("moment", "number", "line"),
    [
        (IMPORT, signal.SIGINT, "interrupted"),
        (PLANNING, signal.SIGHUP, "ended by SIGHUP"),
        (WRITING, signal.SIGTERM, "ended by SIGTERM"),
        (GRAPHS, signal.SIGINT, "interrupted"),
        (REMOVING, signal.SIGINT, "interrupted"),
    ],
    ids=["importing torch", "planning", "writing weights", "writing graphs", "cleaning up, once more"],
)
def test_a_signal_ends_the_export(moment: str, number: signal.Signals, line: str, tmp_path: Path) -> None:
    assert end(tmp_path, moment, number) == (128 + number, f"vmoe-export: {line}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_is_to_be_ignored_is_ignored(tmp_path: Path) -> None:
    def as_nohup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    moment = "os.kill(os.getpid(), NUMBER); import vmoe_export.arguments as module; os.kill(os.getpid(), NUMBER)"
    assert end(tmp_path, moment, signal.SIGHUP, before=as_nohup) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["x.vmoe"]


def test_kills_and_signals_at_random_moments() -> None:
    command = [sys.executable, HARNESS, "--kills", "6", "--signals", "6", "--swaps", "60"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=default_signals)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["failures"] == 0
