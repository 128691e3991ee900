"""The model to export: its parameters, and its description, which is inferred from checkpoint and config."""
