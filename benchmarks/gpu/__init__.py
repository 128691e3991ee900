"""The GPU benchmark's parts: cases, exact results, floors, the device, timing and reports, one subject a file."""
