"""The whole model once more, in numpy and double precision, from the description of what the official code computes.

Shares nothing with the exporter: an independent answer to compare the exported graphs with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Parameters = Mapping[str, Array]

POSITION_EMBEDDING = "Encoder/posembed_input/pos_embedding"


@dataclass(frozen=True)
class Settings:
    """What the parameters can't say.

    Attributes:
        classifier: "token", "0", "gap" or "map".
        position: "learned", "sincos2d" or "none".
        temperature: of sincos2d.
        group_tokens: S.
        k: experts per token.
        capacity: places per expert and group, of each MoE layer.
        bpr: Batch Priority Routing.
        pool: the places of a group are one pool.
        max_experts: experts that a group may use; 0 for all.
        members: M of an ensemble (E3), whose output are the members' logits f64[N,M,...].
        bf16: round expert inputs and outputs to bfloat16.
        bf16_weights: expert weights are bfloat16, and so is what they are multiplied with.
        numbers: what large products are computed in: "float64", "bf16" or "int8". Attention's own are bf16 in the last two.
        int4_weights: expert weights are int4 in groups of 64.
        features: leave the head out.
    """

    classifier: str = "token"
    position: str = "learned"
    temperature: float = 10_000.0
    group_tokens: int = 0
    k: int = 0
    capacity: Sequence[int] = ()
    bpr: bool = False
    pool: bool = False
    max_experts: int = 0
    members: int = 1
    bf16: bool = False
    bf16_weights: bool = False
    numbers: str = "float64"
    int4_weights: bool = False
    features: bool = False


@dataclass
class Result:
    """Logits or features f64[N, ...], and per MoE block kept pairs bool[G,S,E] and gates f64[G,S,E]."""

    output: Array
    kept: dict[str, Array] = field(default_factory=dict)
    gates: dict[str, Array] = field(default_factory=dict)


def forward(parameters: Parameters, images: Array, settings: Settings) -> Result:
    """Runs the model on float images [N,H,W,C] in [-1, 1]."""
    p = {name: array.astype(np.float64) for name, array in parameters.items()}
    result = Result(np.empty(0))
    x = _tokens(p, images.astype(np.float64), settings)
    members = 1
    for i in range(sum(name.endswith("/LayerNorm_1/scale") for name in p)):
        block = f"Encoder/encoderblock_{i}"
        normed = _layer_norm(p, f"{block}/LayerNorm_0", x)
        x = x + _attention(p, f"{block}/SelfAttention", normed, normed, settings.numbers)
        normed = _layer_norm(p, f"{block}/LayerNorm_1", x)
        if f"{block}/Moe/Router/dense/kernel" in p:
            if members < settings.members:  # the first MoE block: here every image becomes M
                members = settings.members
                x, normed = (np.repeat(rows, members, axis=0) for rows in (x, normed))
            by_token = normed.reshape(-1, members, *x.shape[1:]).swapaxes(1, 2)
            groups = by_token.reshape(-1, settings.group_tokens, x.shape[-1])
            y, kept, gates = _moe(p, f"{block}/Moe", groups, settings, settings.capacity[len(result.kept)])
            result.kept[f"encoderblock_{i}"], result.gates[f"encoderblock_{i}"] = kept, gates
            x = x + y.reshape(by_token.shape).swapaxes(1, 2).reshape(x.shape)
        else:
            x = x + _mlp(p, f"{block}/Mlp", normed, settings.numbers)
    result.output = _head(p, _layer_norm(p, "Encoder/encoder_norm", x), settings)
    if settings.members > 1:
        result.output = result.output.reshape(len(images), settings.members, -1)
    return result


def _tokens(p: Parameters, images: Array, settings: Settings) -> Array:
    """Patches, class token and position embedding."""
    height, width, _, hidden = p["embedding/kernel"].shape
    rows, columns = images.shape[1] // height, images.shape[2] // width
    kernel = p["embedding/kernel"].reshape(-1, hidden)
    x = np.empty((len(images), rows * columns, hidden))
    for row in range(rows):
        for column in range(columns):
            patch = images[:, row * height : (row + 1) * height, column * width : (column + 1) * width]
            x[:, row * columns + column] = _product(patch.reshape(len(images), -1), kernel, settings.numbers)
    x += p["embedding/bias"]
    if settings.position == "sincos2d":
        x += _sincos2d(rows, columns, hidden, settings.temperature)
    if settings.classifier == "token":
        x = np.concatenate([np.repeat(p["cls"], len(images), axis=0), x], axis=1)
    if settings.position == "learned":
        x = x + p[POSITION_EMBEDDING]
    return x


def _sincos2d(rows: int, columns: int, hidden: int, temperature: float) -> Array:
    quarter = hidden // 4
    omega = temperature ** -(np.arange(quarter) / (quarter - 1))
    x = np.tile(np.arange(columns), rows)[:, None] * omega
    y = np.repeat(np.arange(rows), columns)[:, None] * omega
    return np.hstack([np.sin(x), np.cos(x), np.sin(y), np.cos(y)])


def _layer_norm(p: Parameters, name: str, x: Array) -> Array:
    mean = x.mean(axis=-1, keepdims=True)
    variance = np.maximum(0, (x * x).mean(axis=-1, keepdims=True) - mean * mean)
    multiplier = p[f"{name}/scale"] / np.sqrt(variance + 1e-6)
    return (x - mean) * multiplier + p.get(f"{name}/bias", np.zeros(()))


def _attention(p: Parameters, name: str, queries: Array, keys: Array, numbers: str) -> Array:
    def project(which: str, x: Array) -> Array:
        kernel = p[f"{name}/{which}/kernel"]
        projected = _product(x, kernel.reshape(len(kernel), -1), numbers).reshape(*x.shape[:2], *kernel.shape[1:])
        projected = projected.transpose(0, 2, 1, 3) + p[f"{name}/{which}/bias"][:, None]
        return _layer_norm(p, f"{name}/{which}_ln", projected) if f"{name}/{which}_ln/scale" in p else projected

    query, key, value = project("query", queries), project("key", keys), project("value", keys)
    if numbers == "float64":
        mixed = _softmax((query / math.sqrt(query.shape[-1])) @ key.transpose(0, 1, 3, 2)) @ value
    else:
        scores = _to_bf16(query) @ _to_bf16(key).transpose(0, 1, 3, 2) / math.sqrt(query.shape[-1])
        exp = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = _to_bf16(exp) @ _to_bf16(value) / exp.sum(axis=-1, keepdims=True)
    merged = mixed.transpose(0, 2, 1, 3).reshape(queries.shape)
    out = p[f"{name}/out/kernel"]
    return _product(merged, out.reshape(-1, out.shape[-1]), numbers) + p[f"{name}/out/bias"]


def _mlp(p: Parameters, name: str, x: Array, numbers: str = "float64") -> Array:
    hidden = _gelu(_product(x, p[f"{name}/Dense_0/kernel"], numbers) + p[f"{name}/Dense_0/bias"])
    return _product(hidden, p[f"{name}/Dense_1/kernel"], numbers) + p[f"{name}/Dense_1/bias"]


def _product(x: Array, weights: Array, numbers: str) -> Array:
    """x[..., inputs] . weights[inputs, outputs] in those numbers; the weights are those of the checkpoint."""
    if numbers == "bf16":
        return _to_bf16(x) @ _to_bf16(weights)
    rows = np.abs(x).max(axis=-1, keepdims=True) / 127
    rows[rows == 0] = 1
    if numbers == "int4":
        y = np.zeros((*x.shape[:-1], weights.shape[-1]))
        for start in range(0, len(weights), 64):
            group = weights[start : start + 64].astype(np.float32)
            scale = (np.abs(group).max(axis=0) / np.float32(7)).astype(np.float16).astype(np.float32)
            scale[scale == 0] = 1
            whole = np.clip(np.rint(group / scale), -7, 7).astype(np.float64)
            y += np.rint(x[..., start : start + 64] / rows) @ whole * scale
        return y * rows
    if numbers == "int8":
        # The scale of a column is float32, that of a row here float64.
        columns = np.abs(weights).max(axis=0).astype(np.float32) / np.float32(127)
        columns[columns == 0] = 1
        whole = np.rint(weights.astype(np.float32) / columns).astype(np.float64)
        return np.rint(x / rows) @ whole * rows * columns
    return x @ weights


def _moe(p: Parameters, name: str, x: Array, settings: Settings, capacity: int) -> tuple[Array, Array, Array]:
    """Returns y[G,S,D], kept[G,S,E] and gates[G,S,E]."""
    logits = x @ p[f"{name}/Router/dense/kernel"].reshape(x.shape[-1], -1)
    if settings.members > 1:  # a member has its own experts, and tokens stand member by member
        owner = np.arange(logits.shape[-1]) // (logits.shape[-1] // settings.members)
        logits[:, owner != np.arange(x.shape[1])[:, None] % settings.members] = -np.inf
    gates = _softmax(logits)
    kept = np.stack([_kept_pairs(group, settings, capacity) for group in gates])
    y = np.zeros_like(x)
    inputs = _to_bf16(x) if settings.bf16 else x
    for expert in range(gates.shape[-1]):
        weights = {key: p[f"{name}/Mlp/{key}"][expert] for key in _EXPERT_PARAMETERS}
        numbers = "bf16" if settings.bf16_weights else "int4" if settings.int4_weights else settings.numbers
        out = _mlp({f"e/{key}": array for key, array in weights.items()}, "e", inputs, numbers)
        out = _to_bf16(out) if settings.bf16 else out
        y += np.where(kept[..., expert], gates[..., expert], 0)[..., None] * out
    return y, kept, gates


_EXPERT_PARAMETERS = ("Dense_0/kernel", "Dense_0/bias", "Dense_1/kernel", "Dense_1/bias")


def _kept_pairs(gates: Array, settings: Settings, capacity: int) -> Array:
    """The pairs of one group that get a place, gates[S,E] -> bool[S,E]: the first of each expert, or of the pool."""
    # sorted() is stable: on ties the lower expert and the lower token stay first.
    chosen = [sorted(range(gates.shape[1]), key=lambda e, row=row: -row[e])[: settings.k] for row in gates]
    turns = list(range(len(gates)))
    if settings.bpr:
        turns.sort(key=lambda token: -gates[token].max())
    mass = [0] * gates.shape[1]
    for row, experts in zip(gates, chosen, strict=True):
        mass[experts[0]] += math.floor(min(max(np.float32(row[experts[0]]), 0), 1) * 2**14)
    used = sorted(range(gates.shape[1]), key=lambda e: -mass[e])[: settings.max_experts or None]
    kept = np.zeros(gates.shape, bool)
    for choice in range(settings.k):
        for token in turns:
            expert = chosen[token][choice]
            taken = kept.sum() if settings.pool else kept[:, expert].sum()
            places = capacity * gates.shape[1] if settings.pool else capacity
            if expert in used and taken < places:
                kept[token, expert] = True
    return kept


def _head(p: Parameters, x: Array, settings: Settings) -> Array:
    if settings.classifier == "gap":
        x = x.mean(axis=1)
    elif settings.classifier == "map":
        probe = np.repeat(p["MapHead/probe"], len(x), axis=0)
        y = _attention(p, "MapHead/MultiHeadDotProductAttention", probe, x, settings.numbers)
        x = (y + _mlp(p, "MapHead/Mlp", _layer_norm(p, "MapHead/LayerNorm", y), settings.numbers))[:, 0]
    else:
        x = x[:, 0]
    if "pre_logits/kernel" in p:
        x = np.tanh(x @ p["pre_logits/kernel"] + p["pre_logits/bias"])
    return x if settings.features else x @ p["head/kernel"] + p["head/bias"]


def _softmax(x: Array) -> Array:
    exp = np.exp(x - x.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def _gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _to_bf16(x: Array) -> Array:
    return x.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)
