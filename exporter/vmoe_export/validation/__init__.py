"""Proof that a written bundle is its checkpoint, and how far its precision moves it."""
