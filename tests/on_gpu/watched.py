"""Run the kernels on random calls under compute-sanitizer, without torch: python3 -m on_gpu.watched LIBRARY CALLS SEED.

The memory of each call has exactly the size that it needs, and outputs are not initialized.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from command_line import BenchmarkError, say

from on_gpu.kernel_cases import kernel_calls
from on_gpu.library import Library
from on_gpu.memory import GpuMemory


def main(arguments: Sequence[str]) -> int:
    """Run the calls. Return 0, or 1 if CUDA refuses one."""
    path, count, seed = arguments
    try:
        library = Library(Path(path))
        memory = GpuMemory(library)
        for call in kernel_calls(library, int(seed), int(count)):
            call.run(library, memory)
    except BenchmarkError as error:
        say(f"error: {error}")
        return 1
    print(f"{count} calls, seed {seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
