"""A Triton model repository of a bundle: how it is written, and the model in it that runs on the engine."""
