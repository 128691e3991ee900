"""TensorRT: what is called of it, the backend, and the engines that are kept for it."""
