"""`vmoe build`: builds a TensorRT engine from a bundle, compares it with the bundle, and stores it in the cache folder."""
