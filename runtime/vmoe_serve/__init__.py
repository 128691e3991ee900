"""Serves bundles: micro-batches at a capacity that holds the latency. Needs the extra `serve`."""
