"""The weights of the reference, in their stored types or in float32.

Stored types come from the written file, and float32 weights come from the checkpoint.
"""

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
"""Returns a tensor of the official tree in the shape that graphs use. None if there is none, such as scales in fp32."""


def stored_weights(path: Path, spans: Mapping[str, Span]) -> Weights:
    """Return a function that returns a tensor of a weights file by name, as a view of the memory-mapped file."""
    data = np.memmap(path, np.uint8, "r")

    def tensor(name: str) -> Array | None:
        span = spans.get(name)
        if span is None:
            return None
        stored = data[span.offset : span.offset + span.nbytes].view(dtype_from_name(DTYPES[span.dtype]))
        kind = _BY_STORED.get(span.dtype, FLOAT32)  # float16 scales have no weight type and need no decoding
        return np.asarray(kind.decode(stored, graph_shape(name, span.shape)))

    return tensor


def official_weights(checkpoint: Checkpoint, config: ModelConfig, shapes: Mapping[str, Any]) -> Weights:
    """Return a function that returns a tensor in `shapes` by name, in float32. Each call reads from the checkpoint."""

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
    """Read the weights file back, and compare each value with the checkpoint's value.

    Of all values that the stored type can represent, the stored value must be the nearest to the checkpoint's value.

    Args:
        path: the weights file.
        spans: the positions of the tensors in the file.
        checkpoint: the checkpoint.
        config: the model.
        advance: called after each tensor, with its size in bytes.
        calibrated: whether int4 weights were calibrated. Only the scales of calibrated weights are compared.

    Raises:
        ExportError: a tensor does not match. The message contains the tensor's name.
    """
    stored = stored_weights(path, spans)
    for name in spans:
        if name.endswith("_scale") and name.removesuffix("_scale") in spans:
            continue  # checked with its kernel
        official = official_tensor(name, checkpoint, config).reshape(graph_shape(name, spans[name].shape))
        found, scales = stored(name), stored(scale_name(name))
        assert found is not None
        # one expert at a time, because the comparison allocates arrays as large as its input
        for matrix in np.ndindex(official.shape[:-2]):
            scale = None if scales is None else scales[matrix]
            if not weight_type_of(found.dtype).is_nearest(official[matrix], found[matrix], scale, calibrated):
                raise invalid(f"tensor {name} of {path.name} does not match the checkpoint")
        advance(spans[name].nbytes)
