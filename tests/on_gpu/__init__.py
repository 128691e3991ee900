"""The kernels called on a GPU, and what only a GPU can show to be right or wrong; `benchmarks/gpu.py` runs it."""
