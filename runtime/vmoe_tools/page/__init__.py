"""Writes a static folder that runs a bundle in a browser and shows what its settings do."""
