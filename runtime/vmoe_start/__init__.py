"""Starts the commands. It imports nothing but what Python has, so that Ctrl-C finds it ready before all other imports."""

from __future__ import annotations

import os
import signal
from importlib import import_module


def start(program: str, module: str) -> int:
    """Imports a command and runs it; Ctrl-C while it is imported ends the process in one sentence, as it does later.

    Imports take a while, and some packages turn an exception on the way into one of their own. Where the process has a
    handler of its own for SIGINT, it is left alone.

    Args:
        program: name of the command.
        module: where its function `main` is.

    Returns:
        The exit code; 130 after Ctrl-C.
    """

    def stop(*_: object) -> None:
        os.write(2, f"{program}: interrupted\n".encode())
        os._exit(130)

    is_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_usual:
        signal.signal(signal.SIGINT, stop)
    run = import_module(module).main
    if is_usual:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    code: int = run()
    return code
