"""Modules of the GPU benchmark.

Each module covers one subject, such as shapes, floors, timing or reports.
"""
