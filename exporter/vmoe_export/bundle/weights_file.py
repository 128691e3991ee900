"""Write `weights.safetensors` one tensor at a time, and return the position of each tensor."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from vmoe_export.checkpoint import Array, Checkpoint
from vmoe_export.errors import CheckpointError
from vmoe_export.model.model_config import ModelConfig
from vmoe_export.model.parameters import POSITION_EMBEDDING, StoredTensor, graph_shape, scale_name, stored_tensors
from vmoe_export.model.position_embedding import resize_position_embedding, sincos2d_position_embedding
from vmoe_export.ops.onnx_lines import ONNX_TYPES
from vmoe_export.precision import ExportPrecision, weight_type
from vmoe_export.weight_types import BFLOAT16, WEIGHT_TYPES
from vmoe_export.weight_types.weight_type import stored_shape
from vmoe_runtime.bundle.manifest import WEIGHTS_NAME

_ELEMENTS = {kind.stored: ONNX_TYPES[kind.name] for kind in WEIGHT_TYPES.values()} | {"F16": ONNX_TYPES["fp16"]}
_TOO_LARGE_FOR_FP16 = 65520  # the smallest value that float16 rounds to infinity
_ALIGNMENT = 64  # in bytes; tensors are used in place in the memory-mapped file


@dataclass(frozen=True)
class Span(StoredTensor):
    """A tensor's description, with its byte offset in the weights file."""

    offset: int


def write_weights(
    path: Path,
    checkpoint: Checkpoint,
    config: ModelConfig,
    shapes: Mapping[str, tuple[int, ...]],
    advance: Callable[[float], None] = lambda size: None,
    precision: ExportPrecision = "fp32",
) -> dict[str, Span]:
    """Write the tensors named in `shapes`. Only one tensor is in memory at a time.

    Args:
        path: the file to write.
        checkpoint: the source of the tensors, whose shapes have been checked.
        config: the description of the model, which determines how the position embedding is resized or computed.
        shapes: shape of each tensor in the official parameter tree, by name.
        advance: function called with a tensor's number of bytes after that tensor is written.
        precision: the precision of the export. With "fp16", weights are stored in float32, and TensorRT graphs round them.

    Returns:
        The position of each tensor in the file.

    Raises:
        CheckpointError: a tensor has NaN or infinite values, or values too large for its stored type.
        OSError: the file can't be written.
    """
    header, spans = layout(stored_tensors(shapes, precision))
    with path.open("wb") as file:
        file.write(header)
        # Write tensors in file order, except that a kernel's scales are written together with the kernel.
        for name in (name for name in spans if name in shapes):
            array = official_tensor(name, checkpoint, config)
            is_rounded = precision == "fp16" and weight_type(name, "bf16") is BFLOAT16
            try:
                if is_rounded and np.abs(array).max(initial=0) >= _TOO_LARGE_FOR_FP16:
                    raise OverflowError("holds values too large for float16; use --precision fp32")
                data, scales = weight_type(name, precision).encode(array.reshape(graph_shape(name, array.shape)))
            except OverflowError as error:
                raise CheckpointError(f"{checkpoint.path}: tensor {name} {error}") from None
            for part, values in ((name, data), (scale_name(name), scales)):
                if values is not None:
                    file.seek(spans[part].offset)
                    file.write(values.data.cast("B"))
                    advance(spans[part].nbytes)
    return spans


def layout(tensors: Mapping[str, StoredTensor]) -> tuple[bytes, dict[str, Span]]:
    """Return the header of a safetensors file and the position of each tensor, in file order.

    The tensors follow each other without gaps.
    """
    # Put tensors whose size is a multiple of the alignment first. Each of these tensors is then aligned.
    order = sorted(tensors, key=lambda name: (tensors[name].nbytes % _ALIGNMENT != 0, name))
    entries: dict[str, dict[str, Any]] = {}
    position = 0
    for name in order:
        start, position = position, position + tensors[name].nbytes
        shape = stored_shape(tensors[name].shape, tensors[name].dtype)
        entries[name] = {"dtype": tensors[name].dtype, "shape": shape, "data_offsets": [start, position]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    starts = {name: 8 + len(text) + entry["data_offsets"][0] for name, entry in entries.items()}
    spans = {name: Span(tensors[name].shape, tensors[name].dtype, start) for name, start in starts.items()}
    return struct.pack("<Q", len(text)) + text, spans


def official_tensor(name: str, checkpoint: Checkpoint, config: ModelConfig) -> Array:
    """Return a tensor in float32, in the form that the model uses.

    The tensor is read from the checkpoint, or computed if the checkpoint does not contain it.

    Raises:
        CheckpointError: the tensor has NaN or infinite values, or can't be read.
    """
    token = config.classifier == "token"
    # float64 values beyond the range of float32 become infinite, and are refused below.
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
        array = array.reshape(len(array), -1)  # the router of an E3 model may have an extra axis for the members
    return array


def external_tensor(name: str, span: Span) -> TensorProto:
    """Return an ONNX tensor whose data are in the weights file."""
    tensor = TensorProto(name=name, data_type=_ELEMENTS[span.dtype], dims=graph_shape(name, span.shape))
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", WEIGHTS_NAME), ("offset", span.offset), ("length", span.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor
