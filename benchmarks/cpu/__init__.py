"""The parts of the CPU benchmarks: models, runs, peers and reports, one subject per file."""
