"""Measures vmoe bundles: speed, kept pairs and accuracy of every profile, on this machine."""
