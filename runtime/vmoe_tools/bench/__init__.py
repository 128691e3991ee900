"""`vmoe bench`: measures bundles at several settings on this machine.

It measures speed, FLOPs, kept pairs and accuracy.
"""
