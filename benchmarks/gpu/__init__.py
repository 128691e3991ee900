"""The parts of the GPU benchmark: cases, exact results, floors, the device, timing and reports, one subject per file."""
