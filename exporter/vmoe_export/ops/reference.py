"""The vmoe ops in plain numpy: the reference that every other implementation is compared with.

Written to be read against the paper (arXiv 2106.05974, section 2 and algorithm 1) and the official `vmoe/moe.py`, not to
be fast. Shapes and dtypes are those of `vmoe_export.ops.table`.
"""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def sparse_mlp(
    x: Array,
    router: Array,
    w1: Array,
    b1: Array,
    w2: Array,
    b2: Array,
    capacity: int,
    k: int,
    bpr: bool,
    dispatch_bf16: bool = False,
) -> tuple[Array, Array, Array]:
    """VmoeSparseMlp: a whole MoE layer, x[G,S,D] -> (y[G,S,D], slot[G,S,K], weight[G,S,K])."""
    logits = x @ router
    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    gates = exp / exp.sum(axis=-1, keepdims=True)
    slot, weight, src = route(gates, capacity, k, bpr)
    out = expert_mlp(dispatch(x, src), w1, b1, w2, b2, dispatch_bf16)
    return combine(out, slot, weight), slot, weight


def route(gates: Array, capacity: int, k: int, bpr: bool) -> tuple[Array, Array, Array]:
    """VmoeRoute: gates[G,S,E] -> (slot i32[G,S,K], weight[G,S,K], src i32[E,M]).

    All first choices are served before any second choice. Within one choice, tokens are served in the order of the group,
    or by descending best gate with `bpr`. On ties the lower expert and the lower token come first. A NaN gate ranks as 0.
    """
    num_groups, num_tokens, num_experts = gates.shape
    ranked = np.where(np.isnan(gates), 0, gates)
    expert = np.argsort(-ranked, axis=-1, kind="stable")[..., :k]
    weight = np.take_along_axis(gates, expert, axis=-1)
    priority = ranked.max(axis=-1) if bpr else np.zeros((num_groups, num_tokens))
    order = np.argsort(-priority, axis=-1, kind="stable")
    places = num_groups * capacity
    slot = np.full((num_groups, num_tokens, k), -1, np.int32)
    src = np.full((num_experts, places), -1, np.int32)
    for group in range(num_groups):
        taken = [0] * num_experts
        for choice in range(k):
            for token in order[group]:
                chosen = expert[group, token, choice]
                if taken[chosen] < capacity:
                    place = group * capacity + taken[chosen]
                    slot[group, token, choice] = chosen * places + place
                    src[chosen, place] = group * num_tokens + token
                taken[chosen] += 1
    return slot, weight, src


def dispatch(x: Array, src: Array) -> Array:
    """VmoeDispatch: x[G,S,D], src[E,M] -> buf[E,M,D], zero rows where src is -1."""
    rows = x.reshape(-1, x.shape[-1])
    return np.where(src[..., None] < 0, x.dtype.type(0), rows[src])


def route_dispatch(gates: Array, x: Array, capacity: int, k: int, bpr: bool) -> tuple[Array, Array, Array]:
    """VmoeRouteDispatch: gates[G,S,E], x[G,S,D] -> (slot i32[G,S,K], weight[G,S,K], buf[E,M,D])."""
    slot, weight, src = route(gates, capacity, k, bpr)
    return slot, weight, dispatch(x, src)


def expert_mlp(buf: Array, w1: Array, b1: Array, w2: Array, b2: Array, dispatch_bf16: bool = False) -> Array:
    """VmoeExpertMlp: buf[E,M,D] -> out[E,M,D].

    With `dispatch_bf16` its input and output are rounded to bfloat16. With weights in bfloat16, what enters the products
    is; everything is computed in the dtype of buf.
    """
    bf16_weights = w1.dtype == ml_dtypes.bfloat16
    rounded = round_bf16(buf) if dispatch_bf16 or bf16_weights else buf
    hidden = gelu_tanh(np.matmul(rounded, w1.astype(buf.dtype)) + b1[:, None])
    if bf16_weights:
        hidden = round_bf16(hidden)
    out = np.matmul(hidden, w2.astype(buf.dtype)) + b2[:, None]
    return round_bf16(out) if dispatch_bf16 else out


def combine(out: Array, slot: Array, weight: Array) -> Array:
    """VmoeCombine: y[G,S,D] = sum over k of weight * out[slot]; dropped pairs (slot -1) add nothing.

    Sums are float32 where out is a shorter type, and in its type otherwise.
    """
    dtype = np.result_type(out.dtype, np.float32)
    rows = out.reshape(-1, out.shape[-1])
    kept = slot >= 0
    picked = np.where(kept[..., None], rows[np.maximum(slot, 0)], 0).astype(dtype)
    y: Array = (np.where(kept, weight, 0).astype(dtype)[..., None] * picked).sum(axis=2).astype(out.dtype)
    return y


def linear(x: Array, w: Array, b: Array) -> Array:
    """VmoeLinear: x[N,T,D] -> y[N,T,P] = x . w + b."""
    y: Array = x @ w + b
    return y


def dense_mlp(x: Array, w1: Array, b1: Array, w2: Array, b2: Array) -> Array:
    """VmoeDenseMlp: x[N,T,D] -> y[N,T,D] = gelu_tanh(x . w1 + b1) . w2 + b2."""
    return linear(gelu_tanh(linear(x, w1, b1)), w2, b2)


def attention(q: Array, k: Array, v: Array, num_heads: int = 1) -> Array:
    """VmoeAttention: q[N,Q,D], k[N,T,D], v[N,T,D] -> y[N,Q,D], softmax(q . k / sqrt(D / H)) . v for each of H heads."""

    def heads(x: Array) -> Array:
        return x.reshape(*x.shape[:2], num_heads, -1).transpose(0, 2, 1, 3)

    scores = heads(q) @ heads(k).swapaxes(2, 3) / math.sqrt(q.shape[2] // num_heads)
    exp = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed: Array = exp / exp.sum(axis=-1, keepdims=True) @ heads(v)
    return mixed.transpose(0, 2, 1, 3).reshape(q.shape)


def gelu_tanh(x: Array) -> Array:
    """GELU in its tanh approximation, the one that flax uses."""
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)
    activated: Array = 0.5 * x * (1 + np.tanh(inner))
    return activated


def round_bf16(x: Array) -> Array:
    """The nearest bfloat16 values (ties to even), in the dtype of x."""
    rounded: Array = x.astype(ml_dtypes.bfloat16).astype(x.dtype)
    return rounded
