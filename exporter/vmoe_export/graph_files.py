"""Writes the two graphs of a bundle and has ONNX check them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from vmoe_export.errors import ExportError
from vmoe_export.graph import trace
from vmoe_export.grouping import Grouping
from vmoe_export.inlined_graph import inline
from vmoe_export.model import Vmoe
from vmoe_export.weights_file import Span
from vmoe_runtime.manifest import CANONICAL_GRAPH, INLINED_GRAPH
from vmoe_runtime.profiles import Profile


def write_graphs(
    folder: Path, model: Vmoe, grouping: Grouping, weights: Mapping[str, Span], default: Profile | None
) -> None:
    """Writes `model.onnx` and `model.inlined.onnx` beside the weights they point into.

    Raises:
        ExportError: ONNX's full checker or strict shape inference refuses a graph.
    """
    canonical = trace(model, grouping, weights, default)
    for name, graph in ((CANONICAL_GRAPH, canonical), (INLINED_GRAPH, inline(canonical))):
        path = folder / name
        path.write_bytes(graph.SerializeToString(deterministic=True))
        try:
            onnx.checker.check_model(path, full_check=True)
            onnx.shape_inference.infer_shapes(graph, check_type=True, strict_mode=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise ExportError(f"ONNX refuses {name}: {error}") from None
