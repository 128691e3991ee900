"""`vmoe build`: builds a TensorRT engine from a bundle.

The command compares the engine with the bundle, and stores it in the cache folder.
"""
