"""The graphs of a bundle: traced from the torch model, and written out for each kind of runtime."""
