"""What a command gets from a terminal, whatever these tests were started from."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence

IMPATIENT = """from vmoe_tools import output, program
output.LINE_SECONDS = output.WAIT_SECONDS = 0.2
raise SystemExit(program.main())"""
"""The program vmoe, as Python's option -c takes it, with its lines of progress more often."""


def default_signals() -> None:
    """Ctrl-C and a hangup end a process again, as `preexec_fn` of a child: nohup and shells' background jobs ignore them."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def started(command: Sequence[object], **environment: str) -> subprocess.Popen[str]:
    """A process whose output is read; variables are added to the environment."""
    return subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=default_signals,  # noqa: PLW1509  (this process has no threads that matter to the child)
        env={**os.environ, **environment},
    )  # fmt: skip


def ended_by(number: int, command: Sequence[object], seconds: float) -> tuple[int, str]:
    """Exit code and standard error of a process that gets a signal after so many seconds."""
    process = started(command)
    try:
        time.sleep(seconds)
        process.send_signal(number)
        _, complaint = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, complaint
