"""Pruning: which experts a model can lose, and a checkpoint without them."""
