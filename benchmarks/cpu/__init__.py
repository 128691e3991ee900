"""Modules of the CPU benchmarks: models, timed runs, peer runtimes and reports, with one subject per file."""
