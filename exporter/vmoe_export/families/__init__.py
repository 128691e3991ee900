"""Models of other libraries: one module per family maps its tensors and settings to ours."""
