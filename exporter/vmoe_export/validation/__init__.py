"""Validation: prove that a bundle matches its checkpoint, and measure how rounding changes the model.

The measurements compare the model as it is stored with the same model in float32.
"""
