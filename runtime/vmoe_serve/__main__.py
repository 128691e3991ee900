"""The entry point of `vmoe-serve` and `python -m vmoe_serve`."""

from __future__ import annotations

import sys

from vmoe_start import start


def main() -> int:
    """Runs the command of this process and returns its exit code."""
    return start("vmoe-serve", "vmoe_serve.cli")


if __name__ == "__main__":
    sys.exit(main())
