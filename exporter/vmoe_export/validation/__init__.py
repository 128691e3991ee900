"""Validation: prove that a bundle matches its checkpoint, and measure how far rounding moves the model from float32."""
