"""The folder of a bundle: where it may go, how it gets there whole or not at all, and its weights file."""
