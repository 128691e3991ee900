"""Calls of the kernels on a GPU, and checks that need one; `benchmarks/gpu.py` runs them."""
