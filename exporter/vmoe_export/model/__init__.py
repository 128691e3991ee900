"""A V-MoE as the exporter knows it: what its checkpoint and config say of it, its parameters, and the torch model."""
