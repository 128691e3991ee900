"""The graphs of a bundle: built from the description of a model, and written for each kind of runtime."""
