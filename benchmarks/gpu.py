"""Check and time the GPU kernels on a GPU. gpu/README.md describes the parts of this benchmark.

    python3 benchmarks/gpu.py [--parts exactness timing ...] [--shapes "64 x 197" ...] [--quick] [--seed N] [-o DIR]

The program needs only nvcc and a torch with CUDA. It needs no network access and no installation of this project.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # the modules with the checks are in tests/on_gpu

from gpu.command import main

if __name__ == "__main__":
    sys.exit(main())
