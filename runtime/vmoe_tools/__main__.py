"""`python -m vmoe_tools` is the program `vmoe`."""

import sys

from vmoe_tools.program import main

sys.exit(main())
