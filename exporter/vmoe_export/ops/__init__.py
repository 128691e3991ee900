"""The vmoe ops: one table, a numpy reference, torch custom ops and ONNX functions."""
