"""Modules of the GPU benchmark: cases, exact results, floors, the device, timing and reports, with one subject per file."""
