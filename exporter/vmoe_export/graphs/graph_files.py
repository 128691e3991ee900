"""Writes the graphs of a bundle and has ONNX check them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from vmoe_export.bundle.weights_file import Span
from vmoe_export.errors import ExportError
from vmoe_export.graphs.canonical_graph import canonical_graph
from vmoe_export.graphs.inlined_graph import inline
from vmoe_export.graphs.tensorrt_graph import tensorrt_graph
from vmoe_export.model.grouping import Grouping
from vmoe_export.model.torch_model import Vmoe
from vmoe_runtime.bundle.manifest import CANONICAL_GRAPH, DENSE_GRAPH_KEY, INLINED_GRAPH, TensorRtPrecision
from vmoe_runtime.profiles import Profile


def write_graphs(
    folder: Path, model: Vmoe, grouping: Grouping, weights: Mapping[str, Span], default: Profile | None
) -> onnx.ModelProto:
    """Writes `model.onnx` and `model.inlined.onnx` beside the weights they point into, and returns the first.

    Raises:
        ExportError: ONNX's full checker or strict shape inference refuses a graph.
    """
    canonical = canonical_graph(model, grouping, weights, default)
    _write(folder / CANONICAL_GRAPH, canonical)
    _write(folder / INLINED_GRAPH, inline(canonical))
    return canonical


def write_tensorrt_graphs(
    folder: Path,
    canonical: onnx.ModelProto,
    profiles: Sequence[Profile],
    precision: TensorRtPrecision,
    hidden_size: int,
) -> dict[str, str]:
    """Writes `PROFILE.tensorrt.onnx` for each profile, or `model.tensorrt.onnx` for a dense ViT.

    Args:
        folder: where the weights lie.
        canonical: from `write_graphs`.
        profiles: the profiles of the bundle; none for a dense ViT.
        precision: what the large products are computed in.
        hidden_size: D, the width of the model's attention.

    Returns:
        File name by profile, or by "model".

    Raises:
        ExportError: ONNX's full checker or strict shape inference refuses a graph.
    """
    files = {}
    for profile in profiles or (None,):
        name = profile.name if profile else DENSE_GRAPH_KEY
        files[name] = f"{name}.tensorrt.onnx"
        _write(folder / files[name], tensorrt_graph(canonical, profile, precision, hidden_size))
    return files


def _write(path: Path, graph: onnx.ModelProto) -> None:
    path.write_bytes(graph.SerializeToString(deterministic=True))
    try:
        onnx.checker.check_model(path, full_check=True)
        onnx.shape_inference.infer_shapes(graph, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"ONNX refuses {path.name}: {error}") from None
