"""What only a GPU can show to be right or wrong; `python3 benchmarks/gpu.py` runs it."""
