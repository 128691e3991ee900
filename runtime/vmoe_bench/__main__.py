"""`python -m vmoe_bench`, the same as `vmoe-bench`."""

from __future__ import annotations

import sys

from vmoe_bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
