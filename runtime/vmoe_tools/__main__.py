"""Runs the program `vmoe` as `python -m vmoe_tools`."""

import sys

from vmoe_tools.program import main

sys.exit(main())
