"""Validation: prove that a bundle matches its checkpoint, and measure how far its precision is from float32."""
