"""Reads bundles, which contain a manifest, graphs and weights."""
