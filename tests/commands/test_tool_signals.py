"""Ctrl-C while a tool is still importing what it needs is one line and 130, as it is later."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from terminal import default_signals

from vmoe_runtime.interrupts import interrupt_held_back

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


@pytest.mark.parametrize("tool", ["vmoe_bench", "vmoe_build", "vmoe_run", "vmoe_inspect", "vmoe_report", "vmoe_serve"])
def test_ctrl_c_during_the_imports(tool: str) -> None:
    command = [sys.executable, "-c", PROGRAM, tool]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=default_signals)
    assert (done.returncode, done.stderr) == (130, f"{tool.replace('_', '-')}: interrupted\n")


@pytest.fixture
def _usual_handler() -> Iterator[None]:
    """The handler that Python has for SIGINT where nobody told it to ignore that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_usual_handler")
def test_ctrl_c_while_a_package_is_imported_that_loses_exceptions() -> None:
    with pytest.raises(KeyboardInterrupt), interrupt_held_back():
        with suppress(KeyboardInterrupt):  # as a compiled package does
            signal.raise_signal(signal.SIGINT)
        reached = True
    assert reached
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("_usual_handler")
def test_handlers_of_the_process_and_other_threads_are_left_alone() -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        with interrupt_held_back():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert came == [signal.SIGINT]

    def enter() -> bool:
        with interrupt_held_back():
            return signal.getsignal(signal.SIGINT) is before

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(enter).result()
