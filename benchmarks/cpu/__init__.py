"""Modules of the CPU benchmarks.

Each module covers one subject, such as models, timed runs, peer runtimes or reports.
"""
