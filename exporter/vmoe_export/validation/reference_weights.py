"""Where the reference takes its weights from: the written file as it is stored, or the checkpoint in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from vmoe_export.bundle.weights_file import Span, official_tensor, quantize_groups
from vmoe_export.checkpoint import Array, Checkpoint
from vmoe_export.checkpoint.base import dtype_from_name
from vmoe_export.checkpoint.safetensors_file import DTYPES
from vmoe_export.errors import ExportError
from vmoe_export.model.model_config import ModelConfig
from vmoe_export.model.parameters import graph_shape, scale_name
from vmoe_export.ops.table import LARGEST_INT8

Weights = Callable[[str], Array | None]
"""A tensor of the official tree in the shape that graphs use, or None where there is none, such as scales in float32."""


def stored_weights(path: Path, spans: Mapping[str, Span]) -> Weights:
    """The tensors of a weights file as views of the mapped file."""
    data = np.memmap(path, np.uint8, "r")

    def tensor(name: str) -> Array | None:
        span = spans.get(name)
        if span is None:
            return None
        stored = data[span.offset : span.offset + span.length].view(dtype_from_name(DTYPES[span.dtype]))
        if span.dtype == "U8":
            values = np.stack([stored << 4, stored], axis=-1).view(np.int8) >> 4
            return values.reshape(span.shape).astype(ml_dtypes.int4)
        if name.endswith("_scale") and span.dtype == "F32":  # of attention they stand by head, as biases do
            return np.asarray(stored.reshape(*span.shape[: "/Moe/" in name], -1))
        return np.asarray(stored.reshape(graph_shape(name, span.shape)))

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
    stage: Callable[[str], object] = lambda text: None,
    *,
    calibrated: bool = False,
) -> None:
    """Reads the weights file back: every value is the checkpoint's, or the nearest that its type has.

    Of int4 weights that were `calibrated` only the scales are held to the checkpoint.

    Raises:
        ExportError: naming the tensor that is not.
    """
    stored = stored_weights(path, spans)
    for name in spans:
        if name.endswith("_scale") and name.removesuffix("_scale") in spans:
            continue  # with its kernel
        stage(f"reading the weights back: {name}")
        official = official_tensor(name, checkpoint, config).reshape(graph_shape(name, spans[name].shape))
        found, scales = stored(name), stored(scale_name(name))
        assert found is not None
        for matrix in np.ndindex(official.shape[:-2]):  # experts are many, and each step makes an array of its size
            scale = None if scales is None else scales[matrix]
            if not _is_nearest(official[matrix], found[matrix], scale, calibrated=calibrated):
                raise ExportError(
                    f"validation failed: tensor {name} of {path.name} does not match the checkpoint; no bundle was written"
                )


def _is_nearest(official: Array, found: Array, scales: Array | None, *, calibrated: bool) -> bool:
    if found.dtype == np.float32:
        return bool(np.array_equal(official.view(np.uint32), found.view(np.uint32)))
    if found.dtype == ml_dtypes.int4:
        nearest, wanted = quantize_groups(official)
        return np.array_equal(scales, wanted) and (calibrated or np.array_equal(found, nearest))  # type: ignore[arg-type]
    if scales is None:
        bits = official.view(np.uint32)
        nearest = (bits + (bits >> 16 & 1) + np.uint32(0x7FFF)) >> 16
        return bool(np.array_equal(nearest, found.view(np.uint16)))
    largest = np.abs(official).max(axis=0)
    wanted = np.where(largest == 0, np.float32(1), largest / np.float32(LARGEST_INT8))
    off = np.abs(official / scales - found)  # in steps; float32 has 2**-17 of one at 127
    return bool(np.array_equal(scales, wanted) and off.max() <= 0.5 + 2**-15 and found.min() >= -LARGEST_INT8)
