"""Models of other libraries. One module per family maps its tensors and settings to ours."""
