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


@pytest.mark.parametrize(
    "tool",
    ["vmoe_tools.bench", "vmoe_tools.build", "vmoe_tools.run", "vmoe_tools.inspect", "vmoe_tools.report", "vmoe_serve"],
)
def test_ctrl_c_during_the_imports(tool: str) -> None:
    command = [sys.executable, "-c", PROGRAM, tool]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=default_signals)
    assert (done.returncode, done.stderr) == (130, f"{tool.replace('_', '-')}: interrupted\n")


LOST = """
import signal
from contextlib import suppress
from vmoe_tools.interrupts import interrupt_held_back
try:
    with interrupt_held_back():
        with suppress(KeyboardInterrupt):  # as a compiled package does
            signal.raise_signal(signal.SIGINT)
        print("reached")
except KeyboardInterrupt:
    print("raised", signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""

OWN_HANDLER = """
import signal
from concurrent.futures import ThreadPoolExecutor
from vmoe_tools.interrupts import interrupt_held_back
came = []
def own(number, _):
    came.append(number)
signal.signal(signal.SIGINT, own)
with interrupt_held_back():
    signal.raise_signal(signal.SIGINT)
def enter():
    with interrupt_held_back():
        return signal.getsignal(signal.SIGINT) is own
print(came == [signal.SIGINT], ThreadPoolExecutor(1).submit(enter).result())
"""


@pytest.mark.parametrize(("program", "said"), [(LOST, "reached\nraised True\n"), (OWN_HANDLER, "True True\n")])
def test_ctrl_c_is_held_back_where_python_would_lose_it_and_nobody_else_handles_it(program: str, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, preexec_fn=default_signals
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")
