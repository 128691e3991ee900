"""Serves bundles. It answers requests in micro-batches, at a capacity that meets a latency target.

The package needs the extra `serve`.
"""
