"""The TensorRT backend, the parts of TensorRT's API that it calls, and the cache of engines."""
