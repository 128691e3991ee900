"""The entry point of `vmoe-run` and `python -m vmoe_run`."""

from __future__ import annotations

import sys

from vmoe_start import start


def main() -> int:
    """Runs the command of this process and returns its exit code."""
    return start("vmoe-run", "vmoe_run.cli")


if __name__ == "__main__":
    sys.exit(main())
