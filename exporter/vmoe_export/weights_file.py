"""Writes `weights.safetensors` one tensor at a time, and says where in the file each tensor lies."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from vmoe_export.checkpoint import Checkpoint
from vmoe_export.errors import CheckpointError
from vmoe_export.model_config import ModelConfig
from vmoe_export.parameters import POSITION_EMBEDDING, StoredType, stored_bytes, stored_type
from vmoe_export.position_embedding import resize_position_embedding, sincos2d_position_embedding
from vmoe_runtime.manifest import Precision

_ALIGNMENT = 64  # bytes; runtimes map the tensors as they lie

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Span:
    """Where a tensor lies in the file: offset and length in bytes, and its shape and element type as stored."""

    offset: int
    length: int
    shape: tuple[int, ...]
    dtype: StoredType = "F32"


def write_weights(
    path: Path,
    checkpoint: Checkpoint,
    config: ModelConfig,
    shapes: Mapping[str, tuple[int, ...]],
    progress: Callable[[str, int], None] = lambda name, size: None,
    precision: Precision = "fp32",
) -> dict[str, Span]:
    """Writes the tensors of `shapes`, reading each from the checkpoint when its turn comes.

    Args:
        path: the file to write.
        checkpoint: where the tensors come from; its shapes have been checked.
        config: decides how the position embedding is made.
        shapes: stored shape of each tensor.
        progress: called with name and bytes after each tensor.
        precision: "fp32" stores all as float32; "bf16" rounds expert weights to bfloat16, to nearest with ties to even.

    Returns:
        The span of each tensor.

    Raises:
        CheckpointError: a tensor holds NaN or infinite values, or values that bfloat16 has no room for.
        OSError: the file can't be written.
    """
    header, spans = _layout(shapes, precision)
    with path.open("wb") as file:
        file.write(header)
        for name, span in spans.items():
            file.write(_encode(name, _tensor(name, checkpoint, config), span.dtype, checkpoint))
            progress(name, span.length)
    return spans


def _layout(shapes: Mapping[str, tuple[int, ...]], precision: Precision) -> tuple[bytes, dict[str, Span]]:
    # Tensors whose length keeps the alignment come first, so that all of them are aligned.
    sizes = {name: stored_bytes(name, shape, precision) for name, shape in shapes.items()}
    order = sorted(shapes, key=lambda name: (sizes[name] % _ALIGNMENT != 0, name))
    starts = {}
    position = 0
    for name in order:
        starts[name] = position
        position += sizes[name]
    types = {name: stored_type(name, precision) for name in order}
    entries = {
        name: {
            "dtype": types[name],
            "shape": list(shapes[name]),
            "data_offsets": [starts[name], starts[name] + sizes[name]],
        }
        for name in order
    }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    data = 8 + len(text)
    spans = {name: Span(data + starts[name], sizes[name], tuple(shapes[name]), types[name]) for name in order}
    return struct.pack("<Q", len(text)) + text, spans


def _encode(name: str, array: Array, dtype: StoredType, checkpoint: Checkpoint) -> memoryview:
    """The bytes of a float32 tensor as stored."""
    if dtype == "F32":
        return array.data.cast("B")
    rounded = array.astype(ml_dtypes.bfloat16)
    if not np.isfinite(rounded).all():
        raise CheckpointError(f"{checkpoint.path}: tensor {name} holds values too large for bfloat16; use --precision fp32")
    return rounded.view(np.uint16).data.cast("B")


def _tensor(name: str, checkpoint: Checkpoint, config: ModelConfig) -> Array:
    token = config.classifier == "token"
    # float64 values beyond float32 become infinite, and are refused as such
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        if name == POSITION_EMBEDDING and config.position_emb == "sincos2d":
            temperature = config.position_temperature
            array = sincos2d_position_embedding(config.grid, config.hidden_size, temperature, token)
        else:
            array = np.ascontiguousarray(checkpoint[name], np.float32)
    if not np.isfinite(array).all():
        raise CheckpointError(f"{checkpoint.path}: tensor {name} holds NaN or infinite values")
    if name == POSITION_EMBEDDING and array.shape[1] != config.num_tokens:
        array = np.ascontiguousarray(resize_position_embedding(array, config.grid, token))
    return array
