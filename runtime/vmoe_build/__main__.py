"""`python -m vmoe_build`, the same as `vmoe-build`."""

from __future__ import annotations

import sys

from vmoe_build.cli import main

if __name__ == "__main__":
    sys.exit(main())
