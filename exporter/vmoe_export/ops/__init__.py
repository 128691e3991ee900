"""The vmoe ops: their table and their ONNX functions."""
