"""Puts a vmoe bundle behind a model server."""
