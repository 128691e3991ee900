"""A Triton model repository for a bundle. The model in the repository runs on the engine."""
