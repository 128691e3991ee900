"""`python -m vmoe_run`, the same as `vmoe-run`."""

from __future__ import annotations

import sys

from vmoe_run.cli import main

if __name__ == "__main__":
    sys.exit(main())
