"""The vmoe ops in torch, of which the torch reference is made: for each op of the table a function of its `function_name`.

Tensors are all on one device, whichever it is, but for routing settings, i64[1], which are in the CPU's memory: so no op
waits for the device, but for a routing with a pool.
"""

from __future__ import annotations

import math
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from vmoe_export.ops import torch_routing
from vmoe_export.ops.table import LARGEST_INT8, LAYER_NORM_EPSILON, SOFT_EPSILON
from vmoe_export.ops.torch_routing import read_setting

_EXACT_IN_FLOAT32 = 2**24 // LARGEST_INT8**2  # depth to which sums of products of two int8 fit into float32's 24 bits


def gates(x: Tensor, router: Tensor) -> Tensor:
    """VmoeGates: x[G,S,D], router[D,E] -> gates[G,S,E]."""
    return torch.softmax(x @ router, dim=-1)


def route(
    gates: Tensor, capacity: Tensor, k: Tensor, bpr: Tensor, pool: Tensor | None, max_experts: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """VmoeRoute: gates[G,S,E] -> (slot i32[G,S,K], weight[G,S,K], src i32[E,M], expert i32[G,S,K])."""
    return torch_routing.route(
        gates,
        read_setting("capacity", capacity),
        read_setting("k", k),
        bool(read_setting("bpr", bpr)),
        pool is not None and bool(read_setting("pool", pool)),
        None if max_experts is None else read_setting("max_experts", max_experts),
    )


def dispatch(x: Tensor, src: Tensor) -> Tensor:
    """VmoeDispatch: x[G,S,D], src[E,M] -> buf[E,M,D], zero rows where src is -1."""
    return F.pad(x.flatten(0, 1), (0, 0, 0, 1))[src.long()]


def route_dispatch(gates: Tensor, x: Tensor, capacity: Tensor, k: Tensor, bpr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """VmoeRouteDispatch: gates[G,S,E], x[G,S,D] -> (slot i32[G,S,K], weight[G,S,K], buf[E,M,D])."""
    slot, weight, src, _ = route(gates, capacity, k, bpr, None, None)
    return slot, weight, dispatch(x, src)


def expert_mlp(
    buf: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    w1_scale: Tensor | None,
    w2_scale: Tensor | None,
    dispatch_bf16: int,
    hidden_chunk: int,
) -> Tensor:
    """VmoeExpertMlp: buf[E,M,D] -> out[E,M,D]. With `dispatch_bf16` input and output are rounded to bfloat16."""
    rounded = _round_bf16(buf) if dispatch_bf16 else buf
    out = _mlp(rounded, w1, b1[:, None], w2, b2[:, None], w1_scale, w2_scale, hidden_chunk)
    return _round_bf16(out) if dispatch_bf16 else out


def combine(out: Tensor, slot: Tensor, weight: Tensor) -> Tensor:
    """VmoeCombine: y[G,S,D] = sum over k of weight * out[slot], in float32; dropped pairs (slot -1) add nothing."""
    picked = F.pad(out.flatten(0, 1), (0, 0, 0, 1))[slot.long()].float()
    return (torch.where(slot < 0, 0.0, weight.float())[..., None] * picked).sum(dim=2).to(out.dtype)


def sparse_mlp(
    x: Tensor,
    router: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    capacity: Tensor,
    k: Tensor,
    bpr: Tensor,
    w1_scale: Tensor | None,
    w2_scale: Tensor | None,
    dispatch_bf16: int,
    hidden_chunk: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """VmoeSparseMlp: a whole MoE layer, x[G,S,D] -> (y[G,S,D], slot i32[G,S,K], weight[G,S,K])."""
    slot, weight, src, _ = route(gates(x, router), capacity, k, bpr, None, None)
    out = expert_mlp(dispatch(x, src), w1, b1, w2, b2, w1_scale, w2_scale, dispatch_bf16, hidden_chunk)
    return combine(out, slot, weight), slot, weight


def linear(x: Tensor, w: Tensor, b: Tensor, w_scale: Tensor | None) -> Tensor:
    """VmoeLinear: x[N,T,D] -> y[N,T,P] = x . w + b."""
    return _product(x, w, w_scale) + b


def dense_mlp(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    w1_scale: Tensor | None,
    w2_scale: Tensor | None,
    hidden_chunk: int,
) -> Tensor:
    """VmoeDenseMlp: x[N,T,D] -> y[N,T,D] = gelu_tanh(x . w1 + b1) . w2 + b2."""
    return _mlp(x, w1, b1, w2, b2, w1_scale, w2_scale, hidden_chunk)


def attention(q: Tensor, k: Tensor, v: Tensor, num_heads: int, bf16: int) -> Tensor:
    """VmoeAttention: q[N,Q,D], k[N,T,D], v[N,T,D] -> y[N,Q,D], softmax(q . k / sqrt(D / H)) . v for each of H heads.

    With `bf16`, q, k, v and the exponentials of the softmax are rounded to bfloat16.
    """
    size = q.shape[2] // num_heads
    query, key, value = (x.reshape(*x.shape[:2], num_heads, size).transpose(1, 2) for x in (q, k, v))
    if bf16:
        scores = _round_bf16(query) @ _round_bf16(key).transpose(2, 3) / math.sqrt(size)
        exp = torch.exp(scores - scores.amax(dim=-1, keepdim=True))
        mixed = _round_bf16(exp) @ _round_bf16(value) / exp.sum(dim=-1, keepdim=True)
    else:
        mixed = torch.softmax((query * (1 / math.sqrt(size))) @ key.transpose(2, 3), dim=-1) @ value
    return mixed.transpose(1, 2).flatten(2).contiguous()


def attention_block(
    x: Tensor,
    ln_scale: Tensor,
    ln_bias: Tensor,
    wq: Tensor,
    bq: Tensor,
    wk: Tensor,
    bk: Tensor,
    wv: Tensor,
    bv: Tensor,
    wo: Tensor,
    bo: Tensor,
    wq_scale: Tensor | None,
    wk_scale: Tensor | None,
    wv_scale: Tensor | None,
    wo_scale: Tensor | None,
    num_heads: int,
) -> Tensor:
    """VmoeAttentionBlock: x[N,T,D] -> y[N,T,D], self-attention of the normed x, added to x."""
    normed = _layer_norm(x, ln_scale, ln_bias)
    q, k, v = linear(normed, wq, bq, wq_scale), linear(normed, wk, bk, wk_scale), linear(normed, wv, bv, wv_scale)
    return x + linear(attention(q, k, v, num_heads, int(wq.dtype != torch.float32)), wo, bo, wo_scale)


def mlp_block(
    x: Tensor,
    ln_scale: Tensor,
    ln_bias: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    w1_scale: Tensor | None,
    w2_scale: Tensor | None,
    hidden_chunk: int,
) -> Tensor:
    """VmoeMlpBlock: x[N,T,D] -> y[N,T,D], the MLP of the normed x, added to x."""
    return x + dense_mlp(_layer_norm(x, ln_scale, ln_bias), w1, b1, w2, b2, w1_scale, w2_scale, hidden_chunk)


def router_block(
    x: Tensor,
    ln_scale: Tensor,
    ln_bias: Tensor,
    router: Tensor,
    capacity: Tensor,
    k: Tensor,
    bpr: Tensor,
    pool: Tensor | None,
    max_experts: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """VmoeRouterBlock: x[G,S,D] -> (slot i32[G,S,K], weight[G,S,K], src i32[E,M], expert i32[G,S,K])."""
    return route(gates(_layer_norm(x, ln_scale, ln_bias), router), capacity, k, bpr, pool, max_experts)


def expert_block(
    x: Tensor,
    ln_scale: Tensor,
    ln_bias: Tensor,
    slot: Tensor,
    weight: Tensor,
    src: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    w1_scale: Tensor | None,
    w2_scale: Tensor | None,
    dispatch_bf16: int,
    hidden_chunk: int,
) -> Tensor:
    """VmoeExpertBlock: x[G,S,D] -> y[G,S,D], what the experts make of the normed x, added to x."""
    buf = dispatch(_layer_norm(x, ln_scale, ln_bias), src)
    out = expert_mlp(buf, w1, b1, w2, b2, w1_scale, w2_scale, dispatch_bf16, hidden_chunk)
    return x + combine(out, slot, weight)


def choose_tokens(gates: Tensor, capacity: Tensor) -> tuple[Tensor, Tensor]:
    """VmoeChooseTokens: gates[G,S,E] -> (slot i32[G,S,E], src i32[E,M]): each expert takes its c best tokens of a group."""
    return torch_routing.choose_tokens(gates, read_setting("capacity", capacity))


def soft_router(x: Tensor, mu: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """VmoeSoftRouter: x[G,S,D], mu[D,E,P], scale[] -> (dispatch[G,S,E,P], combine[G,S,E,P])."""
    logits = _unit(x, -1) @ (_unit(mu, 0) * scale).flatten(1)
    shape = (*x.shape[:2], *mu.shape[1:])
    return torch.softmax(logits, dim=1).reshape(shape), torch.softmax(logits, dim=2).reshape(shape)


def soft_dispatch(x: Tensor, dispatch: Tensor, dispatch_bf16: int) -> Tensor:
    """VmoeSoftDispatch: x[G,S,D], dispatch[G,S,E,P] -> buf[E,M,D], slot p of group g at g * P + p."""
    rows = _round_bf16(x) if dispatch_bf16 else x
    groups, _, experts, slots = dispatch.shape
    mixed = dispatch.flatten(2).transpose(1, 2) @ rows
    by_expert = mixed.reshape(groups, experts, slots, -1).transpose(0, 1)
    return by_expert.reshape(experts, groups * slots, x.shape[2])


def soft_combine(out: Tensor, combine: Tensor, dispatch_bf16: int) -> Tensor:
    """VmoeSoftCombine: out[E,M,D], combine[G,S,E,P] -> y[G,S,D], the sum over all slots of a group of combine * out."""
    rows = _round_bf16(out) if dispatch_bf16 else out
    groups, _, experts, slots = combine.shape
    by_group = rows.reshape(experts, groups, slots, out.shape[2]).transpose(0, 1)
    return combine.flatten(2) @ by_group.reshape(groups, experts * slots, out.shape[2])


def _mlp(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    w1_scale: Tensor | None,
    w2_scale: Tensor | None,
    hidden_chunk: int,
) -> Tensor:
    """gelu_tanh(x . w1 + b1) . w2 + b2; the second product quantizes its depth in chunks of `hidden_chunk`, 0 for one."""
    hidden = F.gelu(_product(x, w1, w1_scale) + b1, approximate="tanh")
    size = hidden_chunk or w2.shape[-2]
    chunks = zip(torch.split(hidden, size, dim=-1), torch.split(w2, size, dim=-2), strict=True)
    return reduce(torch.add, (_product(part, w, w2_scale) for part, w in chunks)) + b2


def _product(x: Tensor, w: Tensor, w_scale: Tensor | None) -> Tensor:
    """x . w in the numbers that the type of w asks for; see `product` of the numpy reference."""
    if w.dtype == torch.int8:
        assert w_scale is not None
        scale = x.abs().amax(dim=-1, keepdim=True) / LARGEST_INT8
        scale = torch.where(scale == 0, 1.0, scale)
        quantized = torch.round(x / scale).clamp(-LARGEST_INT8, LARGEST_INT8)
        # Sums of whole numbers, exact in any order.
        dtype = torch.float32 if w.shape[-2] <= _EXACT_IN_FLOAT32 else torch.float64
        return (quantized.to(dtype) @ w.to(dtype)).float() * (scale * w_scale[..., None, :])
    if w.dtype == torch.bfloat16:
        x = _round_bf16(x)
    return x @ w.to(x.dtype)


def _round_bf16(x: Tensor) -> Tensor:
    return x.bfloat16().to(x.dtype)


def _unit(x: Tensor, axis: int) -> Tensor:
    """x over its length along an axis."""
    return x / torch.sqrt((x * x).sum(dim=axis, keepdim=True) + SOFT_EPSILON)


def _layer_norm(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], scale, bias, LAYER_NORM_EPSILON)
