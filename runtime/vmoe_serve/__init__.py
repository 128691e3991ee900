"""Serves bundles: answers micro-batches at a capacity that meets a latency target. Needs the extra `serve`."""
