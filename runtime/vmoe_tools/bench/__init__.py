"""`vmoe bench`: measures speed, FLOPs, kept pairs and accuracy of bundles at several settings, on this machine."""
