"""Everything about the GPU kernels that only a GPU can show, in one run; GPU.md says what and how.

    python benchmarks/gpu.py [--quick] [--parts exactness sanitizer timing frameworks] [--seed N] [-o DIR]

needs nvcc and a torch that has CUDA. `--floors` prints the tables of GPU.md, and needs neither.
"""

from __future__ import annotations

import sys

from gpu.command import main

if __name__ == "__main__":
    sys.exit(main())
