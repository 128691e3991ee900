"""The folder of a bundle, which is written whole or not at all, its weights file and its model card."""
