"""The entry point of `vmoe-bench` and `python -m vmoe_bench`."""

from __future__ import annotations

import sys

from vmoe_start import start


def main() -> int:
    """Runs the command of this process and returns its exit code."""
    return start("vmoe-bench", "vmoe_bench.cli")


if __name__ == "__main__":
    sys.exit(main())
