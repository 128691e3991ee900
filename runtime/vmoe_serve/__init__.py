"""Serves bundles. It answers micro-batches at a capacity that meets a latency target, and needs the extra `serve`."""
