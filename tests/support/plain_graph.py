"""Lets a backend load a plain ONNX file.

This is for tests that need no bundle, or don't need the graph's inputs and outputs to be checked.
"""

from __future__ import annotations

from pathlib import Path

from vmoe_runtime.bundle.reader import BundleGraph


def plain_graph(path: Path) -> BundleGraph:
    """Return the graph of an ONNX file whose external data is in the same folder."""
    return BundleGraph(path, path.read_bytes(), str(path.parent))
