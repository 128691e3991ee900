"""The graphs of a bundle. They are built from the description of a model and written for each kind of runtime."""
