"""Writes `weights.safetensors` one tensor at a time, and says where in the file each tensor lies."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from onnx import TensorProto

from vmoe_export.checkpoint import Array, Checkpoint
from vmoe_export.errors import CheckpointError
from vmoe_export.model.model_config import ModelConfig
from vmoe_export.model.parameters import POSITION_EMBEDDING, StoredTensor, graph_shape, scale_name, stored_tensors
from vmoe_export.model.position_embedding import resize_position_embedding, sincos2d_position_embedding
from vmoe_export.ops.onnx_lines import ONNX_TYPES
from vmoe_export.ops.table import INT4_GROUP, LARGEST_INT4, LARGEST_INT8
from vmoe_export.precision import STORED_TYPES, ExportPrecision, StoredType
from vmoe_runtime.bundle.manifest import WEIGHTS_NAME

_ELEMENTS = {stored: ONNX_TYPES[element] for element, stored in STORED_TYPES.items()} | {"F16": ONNX_TYPES["fp16"]}
_ALIGNMENT = 64  # bytes; runtimes map the tensors as they lie


@dataclass(frozen=True)
class Span:
    """Where a tensor lies in the file: offset and length in bytes, the shape of its values and their type as stored."""

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
    precision: ExportPrecision = "fp32",
) -> dict[str, Span]:
    """Writes the tensors of `shapes`, reading each from the checkpoint when its turn comes.

    Args:
        path: the file to write.
        checkpoint: where the tensors come from; its shapes have been checked.
        config: decides how the position embedding is made.
        shapes: shape of each tensor in the checkpoint.
        progress: called with name and bytes after each tensor.
        precision: what the weights of products are stored in: as they are; rounded to bfloat16, to nearest with ties to
            even; or as int8 or int4, with scales beside.

    Returns:
        The span of each tensor.

    Raises:
        CheckpointError: a tensor holds NaN or infinite values, or values that bfloat16 has no room for.
        OSError: the file can't be written.
    """
    header, spans = layout(stored_tensors(shapes, precision))
    with path.open("wb") as file:
        file.write(header)
        # In the order of the file; scales are written with their kernels, wherever they lie.
        for name in (name for name in spans if name in shapes):
            array = official_tensor(name, checkpoint, config)
            for part, data in _encode(name, array, spans[name].dtype, checkpoint):
                file.seek(spans[part].offset)
                file.write(data)
                progress(part, spans[part].length)
    return spans


def quantize_columns(weights: Array) -> tuple[Array, Array]:
    """Weights float32[..., inputs, outputs] as int8, and the float32 scale of each output.

    The scale is the largest absolute weight of the column / 127, and 1 for a column of zeros; weights are rounded to
    nearest, ties to even.
    """
    quantized = np.empty(weights.shape, np.int8)
    scales = np.empty((*weights.shape[:-2], weights.shape[-1]), np.float32)
    # One matrix at a time: experts are many, and each step makes an array of its size.
    for matrix in np.ndindex(weights.shape[:-2]):
        scale = np.abs(weights[matrix]).max(axis=0) / np.float32(LARGEST_INT8)
        scale[scale == 0] = 1
        steps = weights[matrix] / scale
        np.rint(steps, out=steps)
        np.clip(steps, -LARGEST_INT8, LARGEST_INT8, out=steps)
        quantized[matrix], scales[matrix] = steps, scale
    return quantized, scales


def quantize_groups(weights: Array) -> tuple[Array, Array]:
    """One matrix float32[inputs, outputs] as whole numbers from -7 to 7, int8, and the float16 scales[groups, outputs].

    The scale is the largest absolute weight of INT4_GROUP of the inputs / 7, as float16, and 1 where that is zero; weights
    are rounded to nearest, ties to even. Weights that float16 has no room for get an infinite scale.
    """
    with np.errstate(over="ignore"):
        largest = np.maximum.reduceat(np.abs(weights), np.arange(0, len(weights), INT4_GROUP), axis=0)
        scales = (largest / np.float32(LARGEST_INT4)).astype(np.float16)
    scales[scales == 0] = 1
    steps = weights / spread_groups(scales, len(weights))
    np.rint(steps, out=steps)
    return np.clip(steps, -LARGEST_INT4, LARGEST_INT4, out=steps).astype(np.int8), scales


def pack_int4(quantized: Array) -> Array:
    """int8[..., n] of int4 values as uint8[..., n / 2], the first of two in the low half."""
    return (quantized[..., ::2] & 15 | quantized[..., 1::2] << 4).view(np.uint8)


def spread_groups(scales: Array, depth: int) -> Array:
    """The scales[..., groups, outputs] of int4 weights for each of so many inputs, float32[..., depth, outputs]."""
    return np.repeat(scales.astype(np.float32), INT4_GROUP, axis=-2)[..., :depth, :]


def layout(tensors: Mapping[str, StoredTensor]) -> tuple[bytes, dict[str, Span]]:
    """The header of a safetensors file of these tensors, and where each lies behind it, in that order without gaps."""
    # Tensors whose length keeps the alignment come first, so that all of them are aligned.
    order = sorted(tensors, key=lambda name: (tensors[name].nbytes % _ALIGNMENT != 0, name))
    entries: dict[str, dict[str, Any]] = {}
    position = 0
    for name in order:
        start, position = position, position + tensors[name].nbytes
        *outer, last = tensors[name].shape or (1,)
        shape = [*outer, last // 2] if tensors[name].dtype == "U8" else list(tensors[name].shape)
        entries[name] = {"dtype": tensors[name].dtype, "shape": shape, "data_offsets": [start, position]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    spans = {
        name: Span(8 + len(text) + entry["data_offsets"][0], tensors[name].nbytes, tensors[name].shape, tensors[name].dtype)
        for name, entry in entries.items()
    }
    return struct.pack("<Q", len(text)) + text, spans


def _encode(name: str, array: Array, dtype: StoredType, checkpoint: Checkpoint) -> Iterator[tuple[str, memoryview]]:
    """A float32 tensor as stored: its name and bytes, and those of its scales if there are any."""
    if dtype == "F32":
        yield name, array.data.cast("B")
    elif dtype == "BF16":
        rounded = array.astype(ml_dtypes.bfloat16)
        if not np.isfinite(rounded).all():
            raise CheckpointError(
                f"{checkpoint.path}: tensor {name} holds values too large for bfloat16; use --precision fp32"
            )
        yield name, rounded.view(np.uint16).data.cast("B")
    elif dtype == "U8":
        packed = np.empty((*array.shape[:-1], array.shape[-1] // 2), np.uint8)
        scales = np.empty((len(array), -(-array.shape[1] // INT4_GROUP), array.shape[2]), np.float16)
        for expert, matrix in enumerate(array):
            quantized, scales[expert] = quantize_groups(matrix)
            packed[expert] = pack_int4(quantized)
        if not np.isfinite(scales).all():
            raise CheckpointError(f"{checkpoint.path}: tensor {name} holds values too large for int4; use --precision int8")
        yield name, packed.data.cast("B")
        yield scale_name(name), scales.data.cast("B")
    else:
        quantized, scales = quantize_columns(array.reshape(graph_shape(name, array.shape)))
        yield name, quantized.data.cast("B")
        yield scale_name(name), scales.data.cast("B")


def official_tensor(name: str, checkpoint: Checkpoint, config: ModelConfig) -> Array:
    """A tensor as the model uses it, float32: read from the checkpoint, or computed where that has none.

    Raises:
        CheckpointError: it holds NaN or infinite values, or can't be read.
    """
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
    if name.endswith("/Moe/Router/dense/kernel"):
        array = array.reshape(len(array), -1)  # that of an E3 may have an axis for the members
    return array


def external_tensor(name: str, span: Span) -> TensorProto:
    """A tensor that lies in the weights file."""
    tensor = TensorProto(name=name, data_type=_ELEMENTS[span.dtype], dims=graph_shape(name, span.shape))
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", WEIGHTS_NAME), ("offset", span.offset), ("length", span.length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor
