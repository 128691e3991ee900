"""Models of other libraries. Each module maps the tensors and settings of one family to the exporter's own."""
