"""What a command gets from a terminal, whatever these tests were started from."""

from __future__ import annotations

import signal


def default_signals() -> None:
    """Ctrl-C and a hangup end a process again, as `preexec_fn` of a child: nohup and shells' background jobs ignore them."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
