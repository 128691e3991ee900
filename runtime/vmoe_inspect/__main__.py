"""The entry point of `vmoe-inspect` and `python -m vmoe_inspect`."""

from __future__ import annotations

import sys


def main() -> int:
    """Runs the command of this process and returns its exit code."""
    try:
        from vmoe_inspect.cli import main as run
    except KeyboardInterrupt:  # imports take a while; afterwards the command sees to this itself
        print("vmoe-inspect: interrupted", file=sys.stderr)
        return 130
    return run()


if __name__ == "__main__":
    sys.exit(main())
