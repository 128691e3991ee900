"""A Triton model repository of a bundle, and the model in it that runs on the engine."""
