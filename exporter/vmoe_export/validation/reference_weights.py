"""Where the reference takes its weights from: the written file as it is stored, or the checkpoint in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vmoe_export.bundle.weights_file import Span, official_tensor
from vmoe_export.checkpoint import Array, Checkpoint
from vmoe_export.checkpoint.number_types import dtype_from_name
from vmoe_export.checkpoint.safetensors_file import DTYPES
from vmoe_export.model.model_config import ModelConfig
from vmoe_export.model.parameters import graph_shape, scale_name
from vmoe_export.validation.limits import invalid
from vmoe_export.weight_types import FLOAT32, WEIGHT_TYPES, weight_type_of

_BY_STORED = {kind.stored: kind for kind in WEIGHT_TYPES.values()}

Weights = Callable[[str], Array | None]
"""A tensor of the official tree in the shape that graphs use, or None where there is none, such as scales in float32."""


def stored_weights(path: Path, spans: Mapping[str, Span]) -> Weights:
    """The tensors of a weights file as views of the mapped file."""
    data = np.memmap(path, np.uint8, "r")

    def tensor(name: str) -> Array | None:
        span = spans.get(name)
        if span is None:
            return None
        stored = data[span.offset : span.offset + span.nbytes].view(dtype_from_name(DTYPES[span.dtype]))
        kind = _BY_STORED.get(span.dtype, FLOAT32)  # float16 scales are as they lie, too
        return np.asarray(kind.decode(stored, graph_shape(name, span.shape)))

    return tensor


def official_weights(checkpoint: Checkpoint, config: ModelConfig, shapes: Mapping[str, Any]) -> Weights:
    """The tensors of `shapes` in float32, read from the checkpoint at each call."""

    def tensor(name: str) -> Array | None:
        if name not in shapes:
            return None
        return official_tensor(name, checkpoint, config).reshape(graph_shape(name, shapes[name]))

    return tensor


def check_stored_weights(
    path: Path,
    spans: Mapping[str, Span],
    checkpoint: Checkpoint,
    config: ModelConfig,
    advance: Callable[[float], None] = lambda size: None,
    *,
    calibrated: bool = False,
) -> None:
    """Reads the weights file back: every value is the checkpoint's, or the nearest that its type has.

    Of weights that were `calibrated` only the scales are held to the checkpoint. `advance` is called with the bytes of each
    tensor after it was read.

    Raises:
        ExportError: naming the tensor that is not.
    """
    stored = stored_weights(path, spans)
    for name in spans:
        if name.endswith("_scale") and name.removesuffix("_scale") in spans:
            continue  # with its kernel
        official = official_tensor(name, checkpoint, config).reshape(graph_shape(name, spans[name].shape))
        found, scales = stored(name), stored(scale_name(name))
        assert found is not None
        for matrix in np.ndindex(official.shape[:-2]):  # experts are many, and each step makes an array of its size
            scale = None if scales is None else scales[matrix]
            if not weight_type_of(found.dtype).is_nearest(official[matrix], found[matrix], scale, calibrated):
                raise invalid(f"tensor {name} of {path.name} does not match the checkpoint")
        advance(spans[name].nbytes)
