"""Pruning: choose the experts that a model can do without, and write a checkpoint without them."""
