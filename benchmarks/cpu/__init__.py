"""Modules of the CPU benchmarks. Each covers one subject, such as models, timed runs, peer runtimes or reports."""
