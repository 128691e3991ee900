"""Models of other libraries: one file per family says which of its tensors and settings are which of ours."""
