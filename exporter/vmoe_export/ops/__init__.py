"""The vmoe ops: one table, ONNX functions, and the ops in torch."""
