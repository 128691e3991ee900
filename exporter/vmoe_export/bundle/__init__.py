"""Write a bundle's folder, manifest, weights file and model card.

The folder is written completely or not at all.
"""
