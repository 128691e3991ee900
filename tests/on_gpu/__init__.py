"""Checks of the kernels that need a GPU. `benchmarks/gpu.py` runs them."""
