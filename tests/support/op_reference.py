"""The vmoe ops in plain numpy. This is the reference with which every other implementation is compared.

The code is written to be easy to compare with the paper (arXiv 2106.05974, section 2 and algorithm 1) and the official
`vmoe/moe.py`. It is not written for speed. Shapes and dtypes are those in `vmoe_export.ops.table`. The dtype of a product's
weights determines the precision in which the product is computed; see `product`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vmoe_export.ops.table import ACTIVATIONS

# Validation and the tests share these reference functions. This module adds the reference functions of the other ops.
from vmoe_export.validation.reference_ops import (  # noqa: F401
    allowed_experts,
    attention,
    layer_norm,
    linear,
    mlp_hidden,
    mlp_output,
    product,
    rms_norm,
    rotate,
    round_bf16,
    soft_combine,
    soft_dispatch,
    soft_router,
    softmax,
)

Array = np.ndarray[Any, np.dtype[Any]]


def function_name(op: str) -> str:
    """Return the name of an op's reference function, such as `expert_mlp`."""
    words = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in op)
    return words.removeprefix("_vmoe_")


def gates(x: Array, router: Array) -> Array:
    """VmoeGates: x[G,S,D], router[D,E] -> gates[G,S,E]."""
    return softmax(x @ router)


def route(
    gates: Array, capacity: int, k: int, bpr: bool, pool: bool = False, max_experts: int | None = None
) -> tuple[Array, Array, Array, Array]:
    """VmoeRoute: gates[G,S,E] -> (slot i32[G,S,K], weight[G,S,K], src i32[E,M], expert i32[G,S,K]).

    Each group puts its (token, expert) pairs into a queue. All first choices come before any second choice. Among choices
    of the same rank, tokens are in the order of the group or, with `bpr`, in descending order of their best gate. On ties,
    the expert or the token with the lower index comes first. A NaN gate ranks as 0. If `max_experts` excludes an expert
    from the group (see `allowed_experts`), this expert's pairs are dropped and don't enter the queue.

    Below, c is `capacity`. Without `pool`, each expert keeps the first c of its pairs in group g. They get the slots g * c,
    g * c + 1 ... of the expert's M = G * c slots.

    With `pool`, the E * c slots of a group are one pool: the first E * c pairs of the group's queue are kept, regardless of
    their experts. M is then the number of pairs that the fullest expert keeps in all groups together, but at least 1. An
    expert's pairs get consecutive slots, ordered by group and by the position in the group's queue.

    `expert` is the expert of every choice, including dropped choices (slot -1).
    """
    num_groups, num_tokens, num_experts = gates.shape
    ranked = np.where(np.isnan(gates), 0, gates)
    expert = np.argsort(-ranked, axis=-1, kind="stable")[..., :k]
    weight = np.take_along_axis(gates, expert, axis=-1)
    priority = ranked.max(axis=-1) if bpr else np.zeros((num_groups, num_tokens))
    order = np.argsort(-priority, axis=-1, kind="stable")
    allowed = allowed_experts(ranked, num_experts if max_experts is None else max_experts)

    kept = np.zeros(expert.shape, bool)
    rank = np.zeros(expert.shape, np.int64)  # index of each kept pair among the kept pairs with the same expert and group
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


def dispatch(x: Array, src: Array) -> Array:
    """VmoeDispatch: x[G,S,D], src[E,M] -> buf[E,M,D]. Rows of buf for which src is -1 are zero."""
    rows = x.reshape(-1, x.shape[-1])
    return np.where(src[..., None] < 0, x.dtype.type(0), rows[src])


def route_dispatch(gates: Array, x: Array, capacity: int, k: int, bpr: bool) -> tuple[Array, Array, Array]:
    """VmoeRouteDispatch: gates[G,S,E], x[G,S,D] -> (slot i32[G,S,K], weight[G,S,K], buf[E,M,D])."""
    slot, weight, src, _ = route(gates, capacity, k, bpr)
    return slot, weight, dispatch(x, src)


def dense_mlp(
    x: Array,
    w1: Array,
    b1: Array,
    w2: Array,
    b2: Array,
    w1_scale: Array | None = None,
    w2_scale: Array | None = None,
    wg: Array | None = None,
    bg: Array | None = None,
    wg_scale: Array | None = None,
    hidden_ln_scale: Array | None = None,
    hidden_ln_bias: Array | None = None,
    hidden_chunk: int = 0,
    activation: int = 0,
) -> Array:
    """VmoeDenseMlp: x[N,T,D] -> y[N,T,D] = norm(activation(x . w1 + b1)) . w2 + b2.

    All arrays may have a leading expert axis. With a gate (wg and bg), the hidden features before the norm are
    activation(x . wg + bg) * (x . w1 + b1).

    The second product cuts its depth F into chunks of size `hidden_chunk`, or into one chunk if `hidden_chunk` is 0. Each
    chunk is quantized separately.
    """
    if wg is None or bg is None:
        hidden = mlp_hidden(x, w1, b1, w1_scale, ACTIVATIONS[activation])
    else:
        hidden = mlp_hidden(x, wg, bg, wg_scale, ACTIVATIONS[activation]) * linear(x, w1, b1, w1_scale)
    if hidden_ln_scale is not None and hidden_ln_bias is not None:
        hidden = layer_norm(hidden, hidden_ln_scale, hidden_ln_bias)
    return mlp_output(hidden, w2, b2, w2_scale, hidden_chunk)


def expert_mlp(
    buf: Array, w1: Array, b1: Array, w2: Array, b2: Array, *scales: Array | None, dispatch_bf16: int = 0, **attributes: int
) -> Array:
    """VmoeExpertMlp: buf[E,M,D] -> out[E,M,D]. With `dispatch_bf16`, buf and out are rounded to bfloat16."""
    rounded = round_bf16(buf) if dispatch_bf16 else buf
    out = dense_mlp(rounded, w1, b1[:, None], w2, b2[:, None], *scales, **attributes)
    return round_bf16(out) if dispatch_bf16 else out


def combine(out: Array, slot: Array, weight: Array) -> Array:
    """VmoeCombine: y[G,S,D] = sum over k, in ascending order, of weight * out[slot]; dropped pairs (slot -1) add nothing.

    If `out` has a type shorter than float32, the sums are computed in float32 and rounded once at the end. Otherwise, they
    are computed in the type of `out`.
    """
    dtype = np.result_type(out.dtype, np.float32)
    rows = out.reshape(-1, out.shape[-1]).astype(dtype)
    total = np.zeros((*slot.shape[:2], rows.shape[1]), dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        for k in range(slot.shape[2]):
            product = weight[..., k, None].astype(dtype) * rows[slot[..., k]]
            total = np.where(slot[..., k, None] < 0, total, product if k == 0 else total + product)
        return total.astype(out.dtype)


def attention_block(
    x: Array,
    ln_scale: Array,
    ln_bias: Array | None,
    wq: Array,
    bq: Array,
    wk: Array,
    bk: Array,
    wv: Array,
    bv: Array,
    wo: Array,
    bo: Array,
    sizes: Array | None = None,
    token: Array | None = None,
    merge: int | None = None,
    wq_scale: Array | None = None,
    wk_scale: Array | None = None,
    wv_scale: Array | None = None,
    wo_scale: Array | None = None,
    coordinates: Array | None = None,
    frequencies: Array | None = None,
    mixed_ln_scale: Array | None = None,
    mixed_ln_bias: Array | None = None,
    num_heads: int = 1,
    prefix: int = 0,
) -> Array | tuple[Array, ...]:
    """VmoeAttentionBlock: x[N,T,D] -> y[N,T,D], the sum of x and the self-attention of the normalized x.

    With `merge`, tokens of the sum are then merged in the same way as in VmoeMerge. With coordinates, queries and keys are
    rotated in the same way as in VmoeRotate.
    """
    normed = norm(x, ln_scale, ln_bias)
    q, k, v = linear(normed, wq, bq, wq_scale), linear(normed, wk, bk, wk_scale), linear(normed, wv, bv, wv_scale)
    if coordinates is not None and frequencies is not None:
        q, k = (rotate(each, coordinates, frequencies, num_heads) for each in (q, k))
    mixed = attention(q, k, v, sizes, num_heads, wq.dtype.itemsize < 4)
    if mixed_ln_scale is not None and mixed_ln_bias is not None:
        mixed = layer_norm(mixed, mixed_ln_scale, mixed_ln_bias)
    y: Array = x + linear(mixed, wo, bo, wo_scale)
    if sizes is None or token is None or merge is None:
        return y
    return merge_tokens(y, k, sizes, token, merge, coordinates, num_heads, prefix)


def merge_tokens(
    x: Array,
    k: Array,
    sizes: Array,
    token: Array,
    merge: int,
    coordinates: Array | None = None,
    num_heads: int = 1,
    prefix: int = 0,
) -> tuple[Array, ...]:
    """VmoeMerge: x[N,T,D] -> (y[N,U,D], merged_sizes[N,U], merged_token i32[N,O]), computed token by token.

    With coordinates[N,T,C], also return merged_coordinates[N,U,C].
    """
    if coordinates is not None:
        whole = np.concatenate([x, coordinates], axis=2)
        y, *merged = merge_tokens(whole, k, sizes, token, merge, None, num_heads, prefix)
        return y[..., : x.shape[2]], *merged, y[..., x.shape[2] :]
    count = x.shape[1]
    first = 2 if prefix == 1 else prefix
    own, other = range(first, count, 2), range(1 if prefix == 1 else prefix + 1, count, 2)
    number = min(merge, count // 2, len(own)) if other else 0
    if not number:
        return x, sizes, token
    results = []
    for image in range(len(x)):
        keys = k[image].reshape(count, num_heads, -1).mean(axis=1)
        units = keys / np.sqrt((keys * keys).sum(axis=1, keepdims=True) + 1e-12)
        score = {a: [-np.inf if np.isnan(units[a] @ units[b]) else units[a] @ units[b] for b in other] for a in own}
        joins = sorted(own, key=lambda a: (-max(score[a]), a))[:number]
        to = {a: other[score[a].index(max(score[a]))] for a in joins}
        left = [*range(prefix), *(a for a in own if a not in to), *other]
        members = {token: [token, *(a for a in sorted(to) if to[a] == token)] for token in left}
        total = np.array([sizes[image][members[one]].sum() for one in left])
        means = [(sizes[image][members[one], None] * x[image][members[one]]).sum(axis=0) for one in left] / total[:, None]
        place = [left.index(to.get(one, one)) for one in range(count)]
        results.append((means, total, np.array([place[one] for one in token[image]])))
    y, merged_sizes, merged_token = (np.stack(values) for values in zip(*results, strict=True))
    return y.astype(x.dtype), merged_sizes.astype(sizes.dtype), merged_token.astype(np.int32)


merge = merge_tokens


def class_attention_block(*inputs: Array | None, **attributes: int) -> Array:
    """VmoeClassAttentionBlock: x[N,T,D] -> y[N,1,D].

    y is the first token of each image in the result of `attention_block`.
    """
    inputs = (*inputs[:12], None, None, *inputs[14:])  # replaces the inputs for merging by None
    return attention_block(*inputs, **attributes)[:, :1]


def norm(x: Array, scale: Array, bias: Array | None) -> Array:
    """Apply the norm at the start of a block."""
    return rms_norm(x, scale) if bias is None else layer_norm(x, scale, bias)


def mlp_block(x: Array, ln_scale: Array, ln_bias: Array | None, *mlp: Array | None, **attributes: int) -> Array:
    """VmoeMlpBlock: x[N,T,D] -> y[N,T,D], the sum of x and the MLP's output for the normalized x."""
    return x + dense_mlp(norm(x, ln_scale, ln_bias), *mlp, **attributes)


def router_block(
    x: Array, ln_scale: Array, ln_bias: Array, router: Array, *setting: int | None
) -> tuple[Array, Array, Array, Array]:
    """VmoeRouterBlock: x[G,S,D] -> (slot i32[G,S,K], weight[G,S,K], src i32[E,M], expert i32[G,S,K]).

    The outputs equal the results of `route` for the gates of the normalized x.
    """
    return route(gates(layer_norm(x, ln_scale, ln_bias), router), *setting)


def expert_block(
    x: Array, ln_scale: Array, ln_bias: Array, slot: Array, weight: Array, src: Array, *mlp: Array | None, **attributes: int
) -> Array:
    """VmoeExpertBlock: x[G,S,D] -> y[G,S,D].

    y is the sum of x and the combined expert outputs for the normalized x.
    """
    buf = dispatch(layer_norm(x, ln_scale, ln_bias), src)
    return x + combine(expert_mlp(buf, *mlp, **attributes), slot, weight)


def choose_tokens(gates: Array, capacity: int) -> tuple[Array, Array]:
    """VmoeChooseTokens: gates[G,S,E] -> (slot i32[G,S,E], src i32[E,M]).

    Each expert takes its best tokens from each group. It takes `capacity` tokens per group. On ties, the token with the
    lower index comes first. A NaN gate ranks as 0. If a group has fewer than `capacity` tokens, the remaining slots stay
    empty.
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
