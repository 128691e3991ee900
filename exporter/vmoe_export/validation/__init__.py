"""Proof that the written graphs do what the torch model does."""
