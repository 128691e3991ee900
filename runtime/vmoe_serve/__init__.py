"""Serves bundles over HTTP.

The server collects requests into micro-batches, and runs them at a capacity that meets a latency target. The package needs
the extra `serve`.
"""
