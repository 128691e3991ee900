"""Builds TensorRT engines from vmoe bundles, into the cache folder, and checks them against the bundle."""
