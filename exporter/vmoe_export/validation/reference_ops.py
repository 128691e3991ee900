"""The mathematics of the model in numpy. The code is written for easy comparison with the paper, not for speed.

The dtype of the weights determines how a product is computed; see `weight_types`. Everything else is computed in
x's dtype.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vmoe_export.ops.table import LAYER_NORM_EPSILON, MERGE_EPSILON, SIGMOID_SLOPES, SOFT_EPSILON, Activation
from vmoe_export.weight_types import weight_type_of
from vmoe_export.weight_types.bfloat16 import round_bf16

Array = np.ndarray[Any, np.dtype[Any]]

_ERF_RANGE, _ERF_STEPS = 6, 256  # outside -6 to 6, erf is -1 or 1 in float64; the table has 256 steps per unit of x
_ERF = np.array([math.erf(i / _ERF_STEPS) for i in range(-_ERF_RANGE * _ERF_STEPS, _ERF_RANGE * _ERF_STEPS + 1)])


def top_k(
    gates: Array, capacity: int, k: int, bpr: bool, pool: bool = False, max_experts: int | None = None
) -> tuple[Array, Array, Array]:
    """Route tokens to their top K experts: gates[G,S,E] -> expert i32[G,S,K], kept bool[G,S,K], weight[G,S,K].

    - The (token, choice) pairs of a group form a queue, in which all first choices come before any second choice, and
      so on. Among the first choices, for example, tokens keep their order. With `bpr`, they are instead sorted by their
      best gate, in descending order.
    - An expert keeps the first `capacity` of its pairs in the queue. With `pool`, the first E * capacity pairs of the
      queue are kept instead, regardless of their experts.
    - Experts that the group may not use (see `allowed_experts`) keep no pairs.
    - Ties go to the expert or token with the lower index. A NaN gate ranks as 0.
    """
    groups, tokens, experts = gates.shape
    ranked = np.where(np.isnan(gates), 0, gates)
    expert = np.argsort(-ranked, axis=-1, kind="stable")[..., :k]
    priority = ranked.max(axis=-1) if bpr else np.zeros((groups, tokens))
    order = np.argsort(-priority, axis=-1, kind="stable")
    queue = np.take_along_axis(expert, order[..., None], axis=1).swapaxes(1, 2).reshape(groups, -1)
    may = np.take_along_axis(allowed_experts(ranked, max_experts or experts), queue, axis=1)
    if pool:
        served = may & (np.cumsum(may, axis=1) <= experts * capacity)
    else:
        asked = np.cumsum(queue[..., None] == np.arange(experts), axis=1)
        served = may & (np.take_along_axis(asked, queue[..., None], axis=2)[..., 0] <= capacity)
    kept = np.empty(expert.shape, bool)
    np.put_along_axis(kept, order[..., None], served.reshape(groups, k, tokens).swapaxes(1, 2), axis=1)
    return expert.astype(np.int32), kept, np.take_along_axis(gates, expert, axis=-1)


def allowed_experts(ranked: Array, max_experts: int) -> Array:
    """Choose the experts that each group may use. These are the `max_experts` experts with the largest mass.

    Ties go to the expert with the lower index. The mass of an expert is a sum over the tokens whose first choice is
    this expert. Each token adds floor(min(max(gate, 0), 1) * 2**14). The terms are integers, so the order of summation
    does not matter. A sum over up to 131,071 tokens fits in an int32.

    Args:
        ranked: gates[G,S,E] without NaN.
        max_experts: how many experts a group may use.

    Returns:
        bool[G,E].
    """
    units = np.floor(np.clip(ranked.max(axis=-1), 0, 1) * 2**14).astype(np.int64)
    is_first = ranked.argmax(axis=-1)[..., None] == np.arange(ranked.shape[-1])
    mass = (is_first * units[..., None]).sum(axis=1)
    best = np.argsort(-mass, axis=-1, kind="stable")[:, :max_experts]
    allowed = np.zeros(mass.shape, bool)
    np.put_along_axis(allowed, best, True, axis=-1)
    return allowed


def chosen_tokens(gates: Array, capacity: int) -> Array:
    """Let each expert choose its best `capacity` tokens of a group: gates[G,S,E] -> kept bool[G,S,E].

    Ties go to the token with the lower index. A NaN gate ranks as 0.
    """
    best = np.argsort(-np.where(np.isnan(gates), 0, gates), axis=1, kind="stable")[:, :capacity]
    kept = np.zeros(gates.shape, bool)
    np.put_along_axis(kept, best, True, axis=1)
    return kept


def soft_router(x: Array, mu: Array, scale: Array) -> tuple[Array, Array]:
    """Compute VmoeSoftRouter: x[G,S,D], mu[D,E,P], scale[] -> (dispatch[G,S,E,P], combine[G,S,E,P]).

    The logit of a token and a slot is scale times the cosine of the angle between the two. `dispatch` is the softmax
    over the tokens of a group. It gives the share of each token in a slot. `combine` is the softmax over the slots of
    all experts. It gives the share of each slot in a token.
    """
    logits = np.einsum("gsd,dep->gsep", _unit(x, -1), _unit(mu, 0) * scale)
    combine = softmax(logits.reshape(*x.shape[:2], -1)).reshape(logits.shape)
    dispatch: Array = softmax(logits.swapaxes(1, -1)).swapaxes(1, -1)
    return dispatch, combine


def soft_dispatch(x: Array, dispatch: Array, dispatch_bf16: bool = False) -> Array:
    """Compute VmoeSoftDispatch: x[G,S,D], dispatch[G,S,E,P] -> buf[E,M,D], where M = G * P.

    Slot p of group g is row g * P + p of an expert. With `dispatch_bf16`, tokens are rounded to bfloat16 first.
    """
    rows = round_bf16(x) if dispatch_bf16 else x
    mixed: Array = np.einsum("gsep,gsd->egpd", dispatch, rows)
    return mixed.reshape(dispatch.shape[2], -1, x.shape[-1])


def soft_combine(out: Array, combine: Array, dispatch_bf16: bool = False) -> Array:
    """Compute VmoeSoftCombine: out[E,M,D], combine[G,S,E,P] -> y[G,S,D], where M = G * P.

    With `dispatch_bf16`, `out` is rounded to bfloat16 first.
    """
    rows = round_bf16(out) if dispatch_bf16 else out
    groups, _, experts, slots = combine.shape
    y: Array = np.einsum("gsep,egpd->gsd", combine, rows.reshape(experts, groups, slots, -1))
    return y


def mlp_hidden(x: Array, w1: Array, b1: Array, w1_scale: Array | None = None, activation: Activation = "gelu_tanh") -> Array:
    """Compute activation(x . w1 + b1).

    The result is an MLP's hidden features. In a gated MLP, `w1` and `b1` may also be the gate's weights. The result is
    then the factors by which the gate multiplies the hidden features.
    """
    return activate(product(x, w1, w1_scale) + b1, activation)


def mlp_output(hidden: Array, w2: Array, b2: Array, w2_scale: Array | None = None, hidden_chunk: int = 0) -> Array:
    """Compute the output of an MLP from its hidden features.

    The depth F of the product is split into chunks of `hidden_chunk` features, which are quantized separately. If
    `hidden_chunk` is 0, there is a single chunk.
    """
    depth, group = w2.shape[-2], weight_type_of(w2.dtype).group
    size = hidden_chunk or depth
    y: Array = np.zeros((), hidden.dtype)
    for start in range(0, max(depth, 1), max(size, 1)):
        part, scale = slice(start, start + size), w2_scale
        if group and scale is not None:
            scale = scale[..., start // group : -(-(start + size) // group), :]
        y = y + product(hidden[..., part], w2[..., part, :], scale)
    return y + b2


def attention(q: Array, k: Array, v: Array, sizes: Array | None = None, num_heads: int = 1, bf16: bool = False) -> Array:
    """Compute VmoeAttention: q[N,Q,D], k[N,T,D], v[N,T,D] -> y[N,Q,D].

    For each of H heads, the result is softmax(q . k / sqrt(D / H)) . v. If sizes[N,T] are given, the logarithm of a
    key's size is added to the key's scores. As a result, a key counts once for each token that was merged into it.

    With `bf16`, the inputs of both products are rounded to bfloat16: q, k, v, and the exponentials of the softmax. The
    result of the second product is then divided by the sum of the unrounded exponentials.
    """

    def heads(x: Array) -> Array:
        return (round_bf16(x) if bf16 else x).reshape(*x.shape[:2], num_heads, -1).transpose(0, 2, 1, 3)

    scores = heads(q) @ heads(k).swapaxes(2, 3) / math.sqrt(q.shape[2] // num_heads)
    if sizes is not None:
        scores = scores + np.log(sizes)[:, None, None]
    exp = np.exp(scores - scores.max(axis=-1, keepdims=True))
    total = exp.sum(axis=-1, keepdims=True)
    mixed: Array = round_bf16(exp) @ heads(v) / total if bf16 else exp / total @ heads(v)
    return mixed.transpose(0, 2, 1, 3).reshape(q.shape)


def rotate(x: Array, coordinates: Array, frequencies: Array, num_heads: int = 1) -> Array:
    """Compute VmoeRotate: x[N,T,D] -> y[N,T,D]. Each pair of columns of a head is rotated by an angle.

    The angle depends on the token and on the pair. Pair a of a head consists of the columns 2 a and 2 a + 1. Its angle is
    entry a of coordinates[N,T,C] . frequencies[C,A], where A = D / H / 2.
    """
    angle = (coordinates @ frequencies)[:, :, None]
    pairs = x.reshape(*x.shape[:2], num_heads, -1, 2)
    first, second = pairs[..., 0], pairs[..., 1]
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.stack([first * cosine - second * sine, second * cosine + first * sine], axis=-1).reshape(x.shape)


def merged_places(k: Array, merge: int, num_heads: int = 1, prefix: int = 0) -> Array:
    """Return each token's position after VmoeMerge merges `merge` pairs by their keys: k[N,T,D] -> i32[N,T].

    After the prefix, every second token is a candidate. A candidate may join the most similar of the tokens that are
    not candidates (arXiv 2210.09461). The new order is the prefix, the candidates that did not join, and the other
    tokens. Ties go to the token with the lower index. NaN counts as the smallest similarity.
    """
    scores, joining, joined = _similarity(k, num_heads, prefix)
    count = k.shape[1]
    number = min(merge, count // 2, len(joining)) if len(joined) else 0
    places = np.tile(np.arange(count, dtype=np.int32), (len(k), 1))
    if not number:
        return places
    order = np.argsort(-scores.max(axis=2), axis=1, kind="stable")
    for own, to, ranked in zip(places, scores.argmax(axis=2), order, strict=True):
        goes = np.zeros(len(joining), bool)
        goes[ranked[:number]] = True
        behind = prefix + len(joining) - number
        own[joining] = np.where(goes, behind + to, prefix + np.cumsum(~goes) - 1)
        own[joined] = behind + np.arange(len(joined))
    return places


def share_of_best_merges(k: Array, places: Array, num_heads: int, prefix: int, near: float) -> float:
    """Return the share of the merges in `places` that `merged_places` would also make. Near ties are accepted.

    Args:
        k: the keys[N,T,D].
        places: i32[N,T], the new position of each token.
        num_heads: number of attention heads.
        prefix: number of tokens at the front that never merge.
        near: two similarities count as equal if they differ by at most this value.
    """
    scores, joining, _ = _similarity(k, num_heads, prefix)
    number = k.shape[1] - places.max() - 1
    if not number:
        return 1.0
    to = places[:, joining] - (prefix + len(joining) - number)
    best = scores.max(axis=2)
    least = np.sort(best, axis=1)[:, -number, None]
    chosen = np.take_along_axis(scores, np.maximum(to, 0)[..., None], axis=2)[..., 0]
    return float(((chosen >= best - near) & (best >= least - near))[to >= 0].mean())


def _similarity(k: Array, num_heads: int, prefix: int) -> tuple[Array, Array, Array]:
    """Return the similarities between tokens, the token indices of the rows, and the token indices of the columns.

    Each row belongs to a token that may join another token. Each column belongs to a token that another token may join.
    """
    mean = k.reshape(*k.shape[:2], num_heads, -1).mean(axis=2)
    metric = mean / np.sqrt((mean * mean).sum(axis=-1, keepdims=True) + k.dtype.type(MERGE_EPSILON))
    # Every second token after the prefix may join another token, starting with the first one. If the prefix is a single
    # token, start with the second one.
    first = 2 if prefix == 1 else prefix
    joining, joined = np.arange(first, k.shape[1], 2), np.arange(first + (-1 if prefix == 1 else 1), k.shape[1], 2)
    scores = metric[:, joining] @ metric[:, joined].swapaxes(1, 2)
    return np.where(np.isnan(scores), -np.inf, scores), joining, joined


def merge_tokens(x: Array, sizes: Array, places: Array) -> tuple[Array, Array]:
    """Merge tokens at their new positions.

    Args:
        x: tokens[N,T,D].
        sizes: [N,T], the number of original tokens that were averaged into each token.
        places: i32[N,T], the new position of each token. Tokens with the same position merge.

    Returns:
        The weighted means [N,U,D], and their sizes [N,U].
    """
    goes = places[:, None] == np.arange(places.max() + 1)[:, None]  # [N,U,T]
    weights = goes * sizes[:, None]
    merged = weights.sum(axis=-1)
    y: Array = weights @ x / merged[..., None]
    return np.where((goes.sum(axis=-1) == 1)[..., None], goes.astype(x.dtype) @ x, y), merged


def linear(x: Array, w: Array, b: Array, w_scale: Array | None = None) -> Array:
    """Compute VmoeLinear: x[N,T,D] -> y[N,T,P] = x . w + b."""
    return product(x, w, w_scale) + b


def product(x: Array, w: Array, w_scale: Array | None = None) -> Array:
    """Compute x[...,T,D] . w[...,D,P] by the rules for w's type, with w's scales. The result has the dtype of x."""
    return weight_type_of(w.dtype).product(x, w, w_scale)


def rms_norm(x: Array, scale: Array) -> Array:
    """Compute the RMS norm over the last axis."""
    square = (x * x).mean(axis=-1, keepdims=True)
    normed: Array = x / np.sqrt(square + x.dtype.type(LAYER_NORM_EPSILON)) * scale
    return normed


def layer_norm(x: Array, scale: Array, bias: Array | float = 0.0, epsilon: float = LAYER_NORM_EPSILON) -> Array:
    """Compute the layer norm over the last axis."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    normed: Array = centred / np.sqrt(variance + x.dtype.type(epsilon)) * scale + bias
    return normed


def normalized(x: Array) -> Array:
    """Divide each row of x[N,D] by its Euclidean norm. Rows of zeros stay unchanged."""
    norms = np.sqrt((x * x).sum(axis=-1, keepdims=True))
    y: Array = x / np.where(norms == 0, np.float32(1), norms)
    return y


def softmax(x: Array) -> Array:
    """Compute the softmax over the last axis."""
    exp = np.exp(x - x.max(axis=-1, keepdims=True))
    shares: Array = exp / exp.sum(axis=-1, keepdims=True)
    return shares


def activate(x: Array, activation: Activation) -> Array:
    """Apply an activation from `ops.table.ACTIVATIONS`. "gelu_tanh" is the GELU that flax uses."""
    activated: Array
    if activation == "gelu_erf":
        activated = (0.5 * x * (1 + erf(x / math.sqrt(2)))).astype(x.dtype)
    elif activation in SIGMOID_SLOPES:
        with np.errstate(over="ignore"):
            activated = x / (1 + np.exp(-SIGMOID_SLOPES[activation] * x))
    else:
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)
        activated = 0.5 * x * (1 + np.tanh(inner))
    return activated


def erf(x: Array) -> Array:
    """Compute the error function in float64, with an error of at most 1e-9.

    The result is the nearest value in a table, plus three terms of the Taylor series around the table entry.
    """
    inside = np.clip(x, -_ERF_RANGE, _ERF_RANGE)
    step = np.rint(np.nan_to_num(inside) * _ERF_STEPS)
    known = step / _ERF_STEPS
    h = inside - known
    slope = 2 / math.sqrt(math.pi) * np.exp(-known * known)
    more = slope * h * (1 - h * (known - h * (2 * known * known - 1) / 3))
    value: Array = _ERF[step.astype(int) + _ERF_RANGE * _ERF_STEPS] + more
    return value


def _unit(x: Array, axis: int) -> Array:
    """Divide x by its Euclidean norm along an axis."""
    unit: Array = x / np.sqrt((x * x).sum(axis=axis, keepdims=True) + x.dtype.type(SOFT_EPSILON))
    return unit
