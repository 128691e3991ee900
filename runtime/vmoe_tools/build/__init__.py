"""`vmoe build`: builds TensorRT engines from bundles into the cache folder, and compares them with the bundle."""
