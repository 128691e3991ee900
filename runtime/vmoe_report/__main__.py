"""The entry point of `vmoe-report` and `python -m vmoe_report`."""

from __future__ import annotations

import os
import signal
import sys


def main() -> int:
    """Runs the command of this process and returns its exit code."""
    # Imports take a while, and some packages turn an exception on the way into one of their own.
    is_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_usual:
        signal.signal(signal.SIGINT, _stop)
    from vmoe_report.cli import main as run

    if is_usual:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return run()


def _stop(*_: object) -> None:
    os.write(2, b"vmoe-report: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
