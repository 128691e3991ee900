"""The entry point of `vmoe-build` and `python -m vmoe_build`."""

from __future__ import annotations

import sys

from vmoe_start import start


def main() -> int:
    """Runs the command of this process and returns its exit code."""
    return start("vmoe-build", "vmoe_build.cli")


if __name__ == "__main__":
    sys.exit(main())
