"""The parameter tree of a model: its tensors, and their shapes in storage and in the graph."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vmoe_export.checkpoint import TensorInfo
from vmoe_export.errors import CheckpointError
from vmoe_export.model.model_config import ModelConfig, Soft
from vmoe_export.precision import ExportPrecision, weight_type
from vmoe_export.weight_types import WeightType
from vmoe_runtime.precisions import STORED_ELEMENTS, StoredType

Shape = tuple[int, ...]

EXTRA_TOKENS = "extra_tokens"
POSITION_EMBEDDING = "Encoder/posembed_input/pos_embedding"
ROTARY = ("rotary/coordinates", "rotary/frequencies")
"""Rotary positions: coordinates of each token (1, T, 2), and frequencies (2, D/H/2) for each pair of a head's columns."""


def parameter_shapes(model: ModelConfig) -> dict[str, Shape]:
    """Return the shape of every parameter in the official tree of `model`, by name.

    A learned position embedding has the shape that the model uses; the checkpoint may store it for another grid. The router
    of an E3 is [D, E], with the experts ordered by member; a checkpoint may store it as [D, M, E/M].
    """
    return dict(_parameters(model))


def stored_parameters(model: ModelConfig, *, features: bool = False) -> dict[str, Shape]:
    """Return the shape of every tensor that the exported model needs, by name.

    These are the tensors of the official tree and, if the position embedding is computed, the position embedding. With
    `features`, the head is left out.
    """
    shapes = parameter_shapes(model)
    if model.position_emb == "sincos2d":
        shapes[POSITION_EMBEDDING] = (1, model.num_tokens, model.hidden_size)
    return {name: shape for name, shape in shapes.items() if not (features and name.startswith("head/"))}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of the weights file: the shape of its values, and the safetensors name of its element type."""

    shape: Shape
    dtype: StoredType

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return int(STORED_ELEMENTS[self.dtype].bytes * math.prod(self.shape))


def stored_tensors(shapes: Mapping[str, Shape], precision: ExportPrecision) -> dict[str, StoredTensor]:
    """Return the tensors that store parameters with these shapes.

    If a kernel has scales, they directly follow the kernel.
    """
    tensors = {}
    for name, shape in shapes.items():
        kind = weight_type(name, precision)
        tensors[name] = StoredTensor(shape, kind.stored)
        if kind.scales:
            tensors[scale_name(name)] = StoredTensor(scale_shape(name, shape, kind), kind.scales)
    return tensors


def scale_name(kernel: str) -> str:
    """Return the name of a kernel's scales."""
    return f"{kernel}_scale"


def scale_shape(kernel: str, shape: Shape, kind: WeightType) -> Shape:
    """Return the shape of a kernel's scales.

    If the weight type has groups, there is one scale per group and output. Otherwise, there is one scale per output, and the
    shape is that of the bias.
    """
    if kernel.endswith(("/query/kernel", "/key/kernel", "/value/kernel")):
        return shape[1:]
    *matrices, depth, columns = graph_shape(kernel, shape)
    return (*matrices, -(-depth // kind.group), columns) if kind.group else (*matrices, columns)


def graph_shape(name: str, shape: Shape) -> Shape:
    """Return the shape of a parameter in the graph.

    The bytes are the same as in storage, but axes that a product uses together are merged. With H heads, attention kernels
    (D,H,D/H) and (H,D/H,D) become (D,D), and their biases become (D). The patch kernel becomes (height*width*channels,D),
    with the height and width of a patch.
    """
    parent, _, leaf = name.rpartition("/")
    if name == "embedding/kernel":
        return shape[0] * shape[1] * shape[2], shape[3]
    if parent.endswith(("/query", "/key", "/value")):
        return (shape[0], shape[1] * shape[2]) if leaf == "kernel" else (shape[0] * shape[1],)
    if parent.endswith("/out") and leaf == "kernel":
        return shape[0] * shape[1], shape[2]
    return shape


def front_parameters(model: ModelConfig) -> dict[str, int]:
    """Map each parameter that holds tokens before the patches to the number of these tokens.

    The parameters are in the order of the tokens.
    """
    tokens = {"cls": int(model.classifier.startswith("token")), EXTRA_TOKENS: model.extra_tokens}
    return {name: count for name, count in tokens.items() if count}


def check_parameters(info: Mapping[str, TensorInfo], model: ModelConfig) -> None:
    """Check that a checkpoint has exactly the parameters of the model.

    Raises:
        CheckpointError: a parameter is missing or unexpected, or its shape is wrong, or its type is not a float. The message
            names the parameter.
    """
    expected = parameter_shapes(model)
    if missing := sorted(expected.keys() - info.keys()):
        raise CheckpointError(f"the checkpoint has no tensor {missing[0]}{_more(missing)}")
    if extra := sorted(info.keys() - expected.keys()):
        raise CheckpointError(f"the checkpoint has a tensor {extra[0]}{_more(extra)} that the model doesn't use")
    for name, shape in expected.items():
        stored = info[name]
        same = stored.shape == shape
        if name.endswith("/Moe/Router/dense/kernel"):
            # A fine-tuned E3 stores the same bytes as a router [D, E], but its shape has an extra axis for the members.
            width, experts = shape
            same = same or stored.shape == (width, model.ensemble_size, experts // model.ensemble_size)
        if name == POSITION_EMBEDDING:
            same = len(stored.shape) == 3 and (stored.shape[0], stored.shape[2]) == (shape[0], shape[2])
        if not same:
            raise CheckpointError(f"tensor {name} has shape {stored.shape}, but the rest of the model needs {shape}")
        if stored.dtype.kind not in "fV":
            raise CheckpointError(f"tensor {name} holds {stored.dtype} values, which can't be weights")


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _parameters(model: ModelConfig) -> Iterator[tuple[str, Shape]]:
    width = model.hidden_size
    for name, count in front_parameters(model).items():
        yield name, (1, count, width)
    yield "embedding/kernel", (*model.patch_size, model.channels, width)
    yield "embedding/bias", (width,)
    if model.position_emb == "learned":
        yield POSITION_EMBEDDING, (1, model.num_tokens, width)
    if model.rotary:
        yield ROTARY[0], (1, model.num_tokens, 2)
        yield ROTARY[1], (2, width // model.num_heads // 2)
    if model.patch_norm:
        yield from _norm("patch_norm", model)
    if model.embedding_norm:
        yield from _layer_norm("embedding_norm", width)
    layer_experts = dict(zip(model.moe.layers, model.moe.experts, strict=True)) if model.moe else {}
    for i in range(model.num_layers):
        yield from _block(f"Encoder/encoderblock_{i}", model, layer_experts.get(i, 0))
    if model.encoder_norm:
        yield from _norm("Encoder/encoder_norm", model)
    yield from _head(model)


def _block(block: str, model: ModelConfig, experts: int) -> Iterator[tuple[str, Shape]]:
    width = model.hidden_size
    yield from _norm(f"{block}/LayerNorm_0", model)
    yield from _attention(f"{block}/SelfAttention", model)
    if model.attention_norm:
        yield from _layer_norm(f"{block}/SelfAttention/LayerNorm", width)
    yield from _norm(f"{block}/LayerNorm_1", model)
    if model.moe and experts:
        if isinstance(model.moe.routing, Soft):
            yield f"{block}/Moe/Router/mu", (width, experts, model.moe.routing.slots_per_expert)
            yield f"{block}/Moe/Router/scale", ()
        else:
            yield f"{block}/Moe/Router/dense/kernel", (width, experts)
        yield from _mlp(f"{block}/Moe/Mlp", width, model.moe.mlp_dim, experts)
        return
    yield from _mlp(f"{block}/Mlp", width, model.mlp_dim)
    if model.gated_mlp:
        yield from _dense(f"{block}/Mlp/Gate", width, model.mlp_dim)
    if model.mlp_norm:
        yield from _layer_norm(f"{block}/Mlp/LayerNorm", model.mlp_dim)


def _head(model: ModelConfig) -> Iterator[tuple[str, Shape]]:
    if model.classifier == "map":
        yield "MapHead/probe", (1, 1, model.hidden_size)
        yield from _attention("MapHead/MultiHeadDotProductAttention", model)
        if not model.bare_map_head:
            yield from _layer_norm("MapHead/LayerNorm", model.hidden_size)
            yield from _mlp("MapHead/Mlp", model.hidden_size, model.mlp_dim)
    if model.representation_size:
        layer = "pre_logits" if model.representation_tanh else "projection"
        yield from _dense(layer, model.pooled_size, model.representation_size)
    if model.num_classes:
        yield from _dense("head", model.feature_size, model.num_classes)


def _dense(name: str, inputs: int, outputs: int, *experts: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}/kernel", (*experts, inputs, outputs)
    yield f"{name}/bias", (*experts, outputs)


def _mlp(name: str, width: int, hidden: int, *experts: int) -> Iterator[tuple[str, Shape]]:
    yield from _dense(f"{name}/Dense_0", width, hidden, *experts)
    yield from _dense(f"{name}/Dense_1", hidden, width, *experts)


def _norm(name: str, model: ModelConfig) -> Iterator[tuple[str, Shape]]:
    """Yield the parameters of a norm, which is an RMS norm if `model.rms_norm` is set."""
    scale, bias = _layer_norm(name, model.hidden_size)
    yield from (scale,) if model.rms_norm else (scale, bias)


def _layer_norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}/scale", (width,)
    yield f"{name}/bias", (width,)


def _attention(name: str, model: ModelConfig) -> Iterator[tuple[str, Shape]]:
    width, heads = model.hidden_size, model.heads_of(name)
    size = width // heads
    normed = (width,) if model.wide_qk_norm else (size,)
    for projection in ("query", "key", "value"):
        if projection == "query" and model.bare_map_head and name.startswith("MapHead"):
            continue
        yield f"{name}/{projection}/kernel", (width, heads, size)
        yield f"{name}/{projection}/bias", (heads, size)
        if projection != "value" and model.has_qk_norm(name):
            yield f"{name}/{projection}_ln/scale", normed
            if model.qk_norm_bias:
                yield f"{name}/{projection}_ln/bias", normed
    yield f"{name}/out/kernel", (heads, size, width)
    yield f"{name}/out/bias", (width,)
