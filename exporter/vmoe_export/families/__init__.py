"""Models of other libraries. Each module maps one family's tensors and settings to those of the exporter."""
