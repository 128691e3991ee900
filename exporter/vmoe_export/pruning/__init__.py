"""Pruning: choose the experts that a model can lose, and write a checkpoint without them."""
