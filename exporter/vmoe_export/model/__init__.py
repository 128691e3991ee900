"""The exporter's model: its description, inferred from checkpoint and config, and its parameters."""
