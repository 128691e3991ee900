"""Reads bundles: the manifest, the interfaces of the graphs, and the weights."""
