"""Modules of the GPU benchmark. Each covers one subject, such as shapes, floors, timing or reports."""
