"""What a command gets from a terminal, whatever these tests were started from."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


def default_signals() -> None:
    """Ctrl-C and a hangup end a process again, as `preexec_fn` of a child: nohup and shells' background jobs ignore them."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def interrupted(command: Sequence[object], seconds: float) -> tuple[int, str]:
    """Exit code and standard error of a process that gets Ctrl-C after so many seconds."""
    process = subprocess.Popen(
        [*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=default_signals,  # noqa: PLW1509
    )  # fmt: skip
    try:
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, said


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Sends this process Ctrl-C after so many seconds; what it interrupts must take longer and handle it."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    # A collection of what other tests have left takes long, and Python loses exceptions in the callbacks that it calls.
    gc.disable()
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        gc.enable()
        signal.signal(signal.SIGINT, before)
