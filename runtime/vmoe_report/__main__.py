"""The entry point of `vmoe-report` and `python -m vmoe_report`."""

from __future__ import annotations

import sys

from vmoe_start import start


def main() -> int:
    """Runs the command of this process and returns its exit code."""
    return start("vmoe-report", "vmoe_report.cli")


if __name__ == "__main__":
    sys.exit(main())
