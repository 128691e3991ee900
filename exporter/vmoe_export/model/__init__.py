"""The model in the exporter: its description from checkpoint and config, and its parameters."""
