"""The entry point of `vmoe-inspect` and `python -m vmoe_inspect`."""

from __future__ import annotations

import sys

from vmoe_start import start


def main() -> int:
    """Runs the command of this process and returns its exit code."""
    return start("vmoe-inspect", "vmoe_inspect.cli")


if __name__ == "__main__":
    sys.exit(main())
