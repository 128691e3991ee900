"""The vmoe ops in plain numpy: the reference that every other implementation is compared with.

Written to be read against the paper (arXiv 2106.05974, section 2 and algorithm 1) and the official `vmoe/moe.py`, not to
be fast. Shapes and dtypes are those of `vmoe_export.ops.table`. The dtype of the weights of a product says in which numbers
it is computed, see `product`.
"""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np

from vmoe_export.ops.table import LARGEST_INT8, LAYER_NORM_EPSILON, SOFT_EPSILON

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
    w1_scale: Array | None = None,
    w2_scale: Array | None = None,
    dispatch_bf16: bool = False,
    hidden_chunk: int = 0,
) -> tuple[Array, Array, Array]:
    """VmoeSparseMlp: a whole MoE layer, x[G,S,D] -> (y[G,S,D], slot[G,S,K], weight[G,S,K])."""
    slot, weight, src, _ = route(gates(x, router), capacity, k, bpr)
    out = expert_mlp(dispatch(x, src), w1, b1, w2, b2, w1_scale, w2_scale, dispatch_bf16, hidden_chunk)
    return combine(out, slot, weight), slot, weight


def gates(x: Array, router: Array) -> Array:
    """VmoeGates: x[G,S,D], router[D,E] -> gates[G,S,E]."""
    return softmax(x @ router)


def route(
    gates: Array, capacity: int, k: int, bpr: bool, pool: bool = False, max_experts: int | None = None
) -> tuple[Array, Array, Array, Array]:
    """VmoeRoute: gates[G,S,E] -> (slot i32[G,S,K], weight[G,S,K], src i32[E,M], expert i32[G,S,K]).

    All first choices are served before any second choice. Within one choice, tokens are served in the order of the group,
    or by descending best gate with `bpr`. On ties the lower expert and the lower token come first. A NaN gate ranks as 0.
    Pairs of experts that the group may not use (`max_experts`, see `allowed_experts`) are dropped before they queue. Then
    each expert keeps the first c of its pairs, at the slots g * c, g * c + 1 ... of M = G * c.

    With `pool` the E * c slots of a group are one pool: the first E * c pairs of its queue are kept, whichever experts
    they go to. M is then what the fullest expert keeps in all groups, at least 1, and an expert's pairs stand close
    together, by group and queue.

    `expert` is the expert of every choice, also where it was dropped (slot -1).
    """
    num_groups, num_tokens, num_experts = gates.shape
    ranked = np.where(np.isnan(gates), 0, gates)
    expert = np.argsort(-ranked, axis=-1, kind="stable")[..., :k]
    weight = np.take_along_axis(gates, expert, axis=-1)
    priority = ranked.max(axis=-1) if bpr else np.zeros((num_groups, num_tokens))
    order = np.argsort(-priority, axis=-1, kind="stable")
    allowed = allowed_experts(ranked, num_experts if max_experts is None else max_experts)

    kept = np.zeros(expert.shape, bool)
    rank = np.zeros(expert.shape, np.int64)  # of a kept pair among those of its expert and group
    taken = np.zeros((num_groups, num_experts), np.int64)
    for group in range(num_groups):
        for choice in range(k):
            for token in order[group]:
                chosen = expert[group, token, choice]
                full = taken[group].sum() == num_experts * capacity if pool else taken[group, chosen] == capacity
                if allowed[group, chosen] and not full:
                    kept[group, token, choice] = True
                    rank[group, token, choice] = taken[group, chosen]
                    taken[group, chosen] += 1

    if pool:
        slots = max(1, int(taken.sum(axis=0).max()))
        first_slot = np.cumsum(taken, axis=0) - taken
    else:
        slots = num_groups * capacity
        first_slot = np.broadcast_to(capacity * np.arange(num_groups)[:, None], taken.shape)
    group_of, token_of, _ = np.nonzero(kept)
    position = first_slot[group_of, expert[kept]] + rank[kept]
    slot = np.full(expert.shape, -1, np.int32)
    slot[kept] = expert[kept] * slots + position
    src = np.full((num_experts, slots), -1, np.int32)
    src[expert[kept], position] = group_of * num_tokens + token_of
    return slot, weight, src, expert.astype(np.int32)


def allowed_experts(ranked: Array, max_experts: int) -> Array:
    """The experts that each group may use: bool[G,E], the `max_experts` of largest mass, on ties the lower ones.

    The mass of an expert is the sum of floor(min(max(gate, 0), 1) * 2**14) over the tokens whose first choice it is. Whole
    numbers make it the same in any order of summation, and those of 131,071 tokens fit an int32. ranked[G,S,E] has no NaN.
    """
    units = np.floor(np.clip(ranked.max(axis=-1), 0, 1) * 2**14).astype(np.int64)
    is_first = ranked.argmax(axis=-1)[..., None] == np.arange(ranked.shape[-1])
    mass = (is_first * units[..., None]).sum(axis=1)
    best = np.argsort(-mass, axis=-1, kind="stable")[:, :max_experts]
    allowed = np.zeros(mass.shape, bool)
    np.put_along_axis(allowed, best, True, axis=-1)
    return allowed


def dispatch(x: Array, src: Array) -> Array:
    """VmoeDispatch: x[G,S,D], src[E,M] -> buf[E,M,D], zero rows where src is -1."""
    rows = x.reshape(-1, x.shape[-1])
    return np.where(src[..., None] < 0, x.dtype.type(0), rows[src])


def route_dispatch(gates: Array, x: Array, capacity: int, k: int, bpr: bool) -> tuple[Array, Array, Array]:
    """VmoeRouteDispatch: gates[G,S,E], x[G,S,D] -> (slot i32[G,S,K], weight[G,S,K], buf[E,M,D])."""
    slot, weight, src, _ = route(gates, capacity, k, bpr)
    return slot, weight, dispatch(x, src)


def expert_mlp(
    buf: Array,
    w1: Array,
    b1: Array,
    w2: Array,
    b2: Array,
    w1_scale: Array | None = None,
    w2_scale: Array | None = None,
    dispatch_bf16: bool = False,
    hidden_chunk: int = 0,
) -> Array:
    """VmoeExpertMlp: buf[E,M,D] -> out[E,M,D]. With `dispatch_bf16` its input and output are rounded to bfloat16."""
    rounded = round_bf16(buf) if dispatch_bf16 else buf
    out = dense_mlp(rounded, w1, b1[:, None], w2, b2[:, None], w1_scale, w2_scale, hidden_chunk)
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


def linear(x: Array, w: Array, b: Array, w_scale: Array | None = None) -> Array:
    """VmoeLinear: x[N,T,D] -> y[N,T,P] = x . w + b."""
    return product(x, w, w_scale) + b


def dense_mlp(
    x: Array,
    w1: Array,
    b1: Array,
    w2: Array,
    b2: Array,
    w1_scale: Array | None = None,
    w2_scale: Array | None = None,
    hidden_chunk: int = 0,
) -> Array:
    """VmoeDenseMlp: x[N,T,D] -> y[N,T,D] = gelu_tanh(x . w1 + b1) . w2 + b2. All may have a leading axis of experts.

    The second product cuts its depth F into chunks of `hidden_chunk` (0: one chunk), which are quantized on their own.
    """
    hidden = gelu_tanh(product(x, w1, w1_scale) + b1)
    depth = w2.shape[-2]
    size = hidden_chunk or depth
    y = product(hidden[..., :size], w2[..., :size, :], w2_scale)
    for start in range(size, depth, size):
        y = y + product(hidden[..., start : start + size], w2[..., start : start + size, :], w2_scale)
    return y + b2


def attention(q: Array, k: Array, v: Array, num_heads: int = 1, bf16: bool = False) -> Array:
    """VmoeAttention: q[N,Q,D], k[N,T,D], v[N,T,D] -> y[N,Q,D], softmax(q . k / sqrt(D / H)) . v for each of H heads.

    With `bf16`, what enters the two products is rounded to bfloat16: q, k, v, and the exponentials of the softmax, which
    are divided by their sum, taken before the rounding, after the second product.
    """

    def heads(x: Array) -> Array:
        return (round_bf16(x) if bf16 else x).reshape(*x.shape[:2], num_heads, -1).transpose(0, 2, 1, 3)

    scores = heads(q) @ heads(k).swapaxes(2, 3) / math.sqrt(q.shape[2] // num_heads)
    exp = np.exp(scores - scores.max(axis=-1, keepdims=True))
    total = exp.sum(axis=-1, keepdims=True)
    mixed: Array = round_bf16(exp) @ heads(v) / total if bf16 else exp / total @ heads(v)
    return mixed.transpose(0, 2, 1, 3).reshape(q.shape)


def attention_block(
    x: Array,
    ln_scale: Array,
    ln_bias: Array,
    wq: Array,
    bq: Array,
    wk: Array,
    bk: Array,
    wv: Array,
    bv: Array,
    wo: Array,
    bo: Array,
    wq_scale: Array | None = None,
    wk_scale: Array | None = None,
    wv_scale: Array | None = None,
    wo_scale: Array | None = None,
    num_heads: int = 1,
) -> Array:
    """VmoeAttentionBlock: x[N,T,D] -> y[N,T,D], self-attention of the normed x, added to x."""
    normed = layer_norm(x, ln_scale, ln_bias)
    q, k, v = linear(normed, wq, bq, wq_scale), linear(normed, wk, bk, wk_scale), linear(normed, wv, bv, wv_scale)
    return x + linear(attention(q, k, v, num_heads, wq.dtype.itemsize < 4), wo, bo, wo_scale)


def mlp_block(
    x: Array,
    ln_scale: Array,
    ln_bias: Array,
    w1: Array,
    b1: Array,
    w2: Array,
    b2: Array,
    w1_scale: Array | None = None,
    w2_scale: Array | None = None,
    hidden_chunk: int = 0,
) -> Array:
    """VmoeMlpBlock: x[N,T,D] -> y[N,T,D], the MLP of the normed x, added to x."""
    return x + dense_mlp(layer_norm(x, ln_scale, ln_bias), w1, b1, w2, b2, w1_scale, w2_scale, hidden_chunk)


def router_block(
    x: Array,
    ln_scale: Array,
    ln_bias: Array,
    router: Array,
    capacity: int,
    k: int,
    bpr: bool,
    pool: bool = False,
    max_experts: int | None = None,
) -> tuple[Array, Array, Array, Array]:
    """VmoeRouterBlock: x[G,S,D] -> (slot i32[G,S,K], weight[G,S,K], src i32[E,M], expert i32[G,S,K]).

    What `route` makes of the gates of the normed x.
    """
    return route(gates(layer_norm(x, ln_scale, ln_bias), router), capacity, k, bpr, pool, max_experts)


def expert_block(
    x: Array,
    ln_scale: Array,
    ln_bias: Array,
    slot: Array,
    weight: Array,
    src: Array,
    w1: Array,
    b1: Array,
    w2: Array,
    b2: Array,
    w1_scale: Array | None = None,
    w2_scale: Array | None = None,
    dispatch_bf16: bool = False,
    hidden_chunk: int = 0,
) -> Array:
    """VmoeExpertBlock: x[G,S,D] -> y[G,S,D], what the experts make of the normed x, added to x."""
    buf = dispatch(layer_norm(x, ln_scale, ln_bias), src)
    out = expert_mlp(buf, w1, b1, w2, b2, w1_scale, w2_scale, dispatch_bf16, hidden_chunk)
    return x + combine(out, slot, weight)


def choose_tokens(gates: Array, capacity: int) -> tuple[Array, Array]:
    """VmoeChooseTokens: gates[G,S,E] -> (slot i32[G,S,E], src i32[E,M]): each expert takes its c best tokens of a group.

    On ties the lower token comes first, a NaN gate ranks as 0, and slots beyond the group's tokens stay empty.
    """
    num_groups, num_tokens, num_experts = gates.shape
    order = np.argsort(-np.where(np.isnan(gates), 0, gates), axis=1, kind="stable")[:, :capacity]
    slots = num_groups * capacity
    slot = np.full(gates.shape, -1, np.int32)
    src = np.full((num_experts, slots), -1, np.int32)
    for group in range(num_groups):
        for expert in range(num_experts):
            for rank, token in enumerate(order[group, :, expert]):
                position = group * capacity + rank
                slot[group, token, expert] = expert * slots + position
                src[expert, position] = group * num_tokens + token
    return slot, src


def soft_router(x: Array, mu: Array, scale: Array) -> tuple[Array, Array]:
    """VmoeSoftRouter: x[G,S,D], mu[D,E,P], scale[] -> (dispatch[G,S,E,P], combine[G,S,E,P]).

    Tokens and slots meet at scale times the cosine of their angle. dispatch are the shares of a group's tokens in each slot,
    combine those of all experts' slots in each token.
    """
    logits = np.einsum("gsd,dep->gsep", _unit(x, -1), _unit(mu, 0) * scale)
    combine = softmax(logits.reshape(*x.shape[:2], -1)).reshape(logits.shape)
    dispatch: Array = softmax(logits.swapaxes(1, -1)).swapaxes(1, -1)
    return dispatch, combine


def soft_dispatch(x: Array, dispatch: Array, dispatch_bf16: bool = False) -> Array:
    """VmoeSoftDispatch: x[G,S,D], dispatch[G,S,E,P] -> buf[E,M,D], slot p of group g at g * P + p.

    With `dispatch_bf16` tokens are rounded to bfloat16 first.
    """
    rows = round_bf16(x) if dispatch_bf16 else x
    mixed: Array = np.einsum("gsep,gsd->egpd", dispatch, rows)
    return mixed.reshape(dispatch.shape[2], -1, x.shape[-1])


def soft_combine(out: Array, combine: Array, dispatch_bf16: bool = False) -> Array:
    """VmoeSoftCombine: out[E,M,D], combine[G,S,E,P] -> y[G,S,D]. With `dispatch_bf16` out is rounded to bfloat16 first."""
    rows = round_bf16(out) if dispatch_bf16 else out
    groups, _, experts, slots = combine.shape
    y: Array = np.einsum("gsep,egpd->gsd", combine, rows.reshape(experts, groups, slots, -1))
    return y


def product(x: Array, w: Array, w_scale: Array | None = None) -> Array:
    """x[...,T,D] . w[...,D,P] in the numbers that the type of w asks for, in the dtype of x.

    Weights in bfloat16: x is rounded to bfloat16 as well. Weights in int8, with w_scale[...,P]: each row of x is quantized,
    the sums are whole numbers and exact, and are scaled by the product of both scales.
    """
    if w.dtype == np.int8:
        assert w_scale is not None
        quantized, scale = quantize(x)
        exact = np.matmul(quantized.astype(np.float64), w.astype(np.float64))  # whole numbers below 2**53
        scaled: Array = exact.astype(x.dtype) * (scale * w_scale[..., None, :])
        return scaled
    narrow = w.dtype == ml_dtypes.bfloat16
    y: Array = np.matmul(round_bf16(x) if narrow else x, w.astype(x.dtype))
    return y


def quantize(x: Array) -> tuple[Array, Array]:
    """The rows of x[...,D] in whole numbers from -127 to 127 (in the dtype of x), and the scale[...,1] of each.

    The scale is that of the largest value, and 1 for a row of zeros. Rounds to nearest, ties to even.
    """
    scale = np.abs(x).max(axis=-1, keepdims=True) / x.dtype.type(LARGEST_INT8)
    scale = np.where(scale == 0, x.dtype.type(1), scale)
    return np.clip(np.rint(x / scale), -LARGEST_INT8, LARGEST_INT8), scale


def layer_norm(x: Array, scale: Array, bias: Array) -> Array:
    """Layer normalization over the last axis."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    normed: Array = centred / np.sqrt(variance + x.dtype.type(LAYER_NORM_EPSILON)) * scale + bias
    return normed


def _unit(x: Array, axis: int) -> Array:
    """x over its length along an axis."""
    unit: Array = x / np.sqrt((x * x).sum(axis=axis, keepdims=True) + x.dtype.type(SOFT_EPSILON))
    return unit


def softmax(x: Array) -> Array:
    """Softmax over the last axis."""
    exp = np.exp(x - x.max(axis=-1, keepdims=True))
    shares: Array = exp / exp.sum(axis=-1, keepdims=True)
    return shares


def gelu_tanh(x: Array) -> Array:
    """GELU in its tanh approximation, the one that flax uses."""
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)
    activated: Array = 0.5 * x * (1 + np.tanh(inner))
    return activated


def round_bf16(x: Array) -> Array:
    """The nearest bfloat16 values (ties to even), in the dtype of x."""
    rounded: Array = x.astype(ml_dtypes.bfloat16).astype(x.dtype)
    return rounded
