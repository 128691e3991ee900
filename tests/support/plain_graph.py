"""A graph of no bundle, or one whose interface is not checked, for a backend."""

from __future__ import annotations

from pathlib import Path

from vmoe_runtime.bundle.reader import BundleGraph


def plain_graph(path: Path) -> BundleGraph:
    """An ONNX file with its external data beside it."""
    return BundleGraph(path, path.read_bytes(), str(path.parent))
