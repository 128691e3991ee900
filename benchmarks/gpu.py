"""Everything about the GPU kernels that only a GPU can show; gpu/README.md says what and how.

    python3 benchmarks/gpu.py [--parts exactness timing ...] [--shapes "64 x 197" ...] [--quick] [--seed N] [-o DIR]

needs nvcc and a torch that has CUDA, and nothing else: no network, and not this project.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # what is checked is in its folder on_gpu

from gpu.command import main

if __name__ == "__main__":
    sys.exit(main())
