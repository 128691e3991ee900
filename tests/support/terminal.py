"""Functions that start processes with a terminal's signal handling, regardless of how the tests were started."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence

IMPATIENT = """from vmoe_tools import output, program
output.LINE_SECONDS = output.WAIT_SECONDS = 0.2
raise SystemExit(program.main())"""
"""The program vmoe for Python's option -c, with more frequent lines of progress."""


def default_signals() -> None:
    """Let Ctrl-C and a hangup end the calling process. The function is for use as a child process's `preexec_fn`.

    Without it, the child would ignore these signals if the tests were started with nohup or as a background job of a shell.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def started(command: Sequence[object], **environment: str) -> subprocess.Popen[str]:
    """Start a process and capture its output. `environment` is added to the environment variables."""
    return subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=default_signals,  # noqa: PLW1509  (this process has no threads that matter to the child)
        env={**os.environ, **environment},
    )  # fmt: skip


def ended_by(number: int, command: Sequence[object], seconds: float) -> tuple[int, str]:
    """Start a process, and send it the signal `number` after `seconds`. Return its exit code and standard error."""
    process = started(command)
    try:
        time.sleep(seconds)
        process.send_signal(number)
        _, complaint = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, complaint
