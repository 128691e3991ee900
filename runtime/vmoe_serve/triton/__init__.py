"""A Triton model repository for a bundle, and the model in it that runs on the engine."""
