"""The model to export: its description, inferred from checkpoint and config, and its parameters."""
