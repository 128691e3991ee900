"""The GPU kernels' library, calls of it, and where they run: on the emulator, or on a GPU (`benchmarks/gpu.py`)."""
