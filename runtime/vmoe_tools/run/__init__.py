"""Runs a vmoe bundle on image files: their classes and probabilities."""
