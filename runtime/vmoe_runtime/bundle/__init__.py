"""Reads bundles: the manifest, the graphs as far as their interface goes, and the weights."""
