"""The vmoe ops as torch custom ops: what the exported model calls, and runs in eager mode as the torch reference.

Importing this module registers `vmoe::sparse_mlp`, `vmoe::route`, `vmoe::dispatch`, `vmoe::route_dispatch`,
`vmoe::expert_mlp`, `vmoe::combine`, `vmoe::linear`, `vmoe::dense_mlp`, `vmoe::attention`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.library.custom_op("vmoe::route", mutates_args=())
def route(gates: Tensor, capacity: Tensor, k: Tensor, bpr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """VmoeRoute: gates[G,S,E] -> (slot i32[G,S,K], weight[G,S,K], src i32[E,M])."""
    places, choices = int(capacity), int(k)
    groups, tokens, experts = gates.shape
    ranked = gates.float().nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)
    value, order = ranked.sort(dim=-1, descending=True, stable=True)
    expert = order[..., :choices]
    weight = gates.gather(-1, expert)
    priority = value[..., 0] if bool(bpr) else torch.zeros_like(value[..., 0])
    serving = priority.argsort(dim=-1, descending=True, stable=True)

    # The queue of each group: all first choices in serving order, then all second choices, ...
    queue = expert.gather(1, serving[..., None].expand_as(expert)).transpose(1, 2).reshape(groups, -1)
    asked = F.one_hot(queue, experts).cumsum(dim=1)
    position = asked.gather(2, queue[..., None])[..., 0] - 1
    group = torch.arange(groups)[:, None]
    total = groups * places
    queue_slot = torch.where(position < places, queue * total + group * places + position, -1)

    served = queue_slot.reshape(groups, choices, tokens).transpose(1, 2)
    slot = torch.empty_like(served).scatter_(1, serving[..., None].expand_as(served), served)
    token = (group * tokens + serving).repeat(1, choices)
    kept = queue_slot >= 0
    src = torch.full((experts * total,), -1)
    src[queue_slot[kept]] = token[kept]
    return slot.to(torch.int32), weight, src.reshape(experts, total).to(torch.int32)


@torch.library.custom_op("vmoe::dispatch", mutates_args=())
def dispatch(x: Tensor, src: Tensor) -> Tensor:
    """VmoeDispatch: x[G,S,D], src[E,M] -> buf[E,M,D], zero rows where src is -1."""
    return F.pad(x.flatten(0, 1), (0, 0, 0, 1))[src.long()]


@torch.library.custom_op("vmoe::route_dispatch", mutates_args=())
def route_dispatch(gates: Tensor, x: Tensor, capacity: Tensor, k: Tensor, bpr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """VmoeRouteDispatch: gates[G,S,E], x[G,S,D] -> (slot i32[G,S,K], weight[G,S,K], buf[E,M,D])."""
    slot, weight, src = route(gates, capacity, k, bpr)
    return slot, weight, dispatch(x, src)


@torch.library.custom_op("vmoe::expert_mlp", mutates_args=())
def expert_mlp(buf: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, dispatch_bf16: int) -> Tensor:
    """VmoeExpertMlp: buf[E,M,D] -> out[E,M,D].

    With `dispatch_bf16` input and output are rounded to bfloat16. With weights in bfloat16, what enters the products is.
    """
    bf16_weights = w1.dtype == torch.bfloat16
    if dispatch_bf16 or bf16_weights:
        buf = _round_bf16(buf)
    hidden = F.gelu(torch.baddbmm(b1[:, None], buf, w1.to(buf.dtype)), approximate="tanh")
    if bf16_weights:
        hidden = _round_bf16(hidden)
    out = torch.baddbmm(b2[:, None], hidden, w2.to(buf.dtype))
    return _round_bf16(out) if dispatch_bf16 else out


def _round_bf16(x: Tensor) -> Tensor:
    return x.bfloat16().to(x.dtype)


@torch.library.custom_op("vmoe::combine", mutates_args=())
def combine(out: Tensor, slot: Tensor, weight: Tensor) -> Tensor:
    """VmoeCombine: y[G,S,D] = sum over k of weight * out[slot], in float32; dropped pairs (slot -1) add nothing."""
    picked = F.pad(out.flatten(0, 1), (0, 0, 0, 1))[slot.long()].float()
    return (torch.where(slot < 0, 0.0, weight.float())[..., None] * picked).sum(dim=2).to(out.dtype)


@torch.library.custom_op("vmoe::sparse_mlp", mutates_args=())
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
    dispatch_bf16: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """VmoeSparseMlp: a whole MoE layer, x[G,S,D] -> (y[G,S,D], slot i32[G,S,K], weight[G,S,K])."""
    slot, weight, src = route(torch.softmax(x @ router, dim=-1), capacity, k, bpr)
    out = expert_mlp(dispatch(x, src), w1, b1, w2, b2, dispatch_bf16)
    return combine(out, slot, weight), slot, weight


@sparse_mlp.register_fake
def _(
    x: Tensor,
    router: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    capacity: Tensor,
    k: Tensor,
    bpr: Tensor,
    dispatch_bf16: int,
) -> tuple[Tensor, Tensor, Tensor]:
    # K is data: a size that only the run knows.
    pairs = (x.shape[0], x.shape[1], torch.library.get_ctx().new_dynamic_size())
    return torch.empty_like(x), x.new_empty(pairs, dtype=torch.int32), x.new_empty(pairs)


@torch.library.custom_op("vmoe::linear", mutates_args=())
def linear(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """VmoeLinear: x[N,T,D] -> y[N,T,P] = x . w + b."""
    return x @ w + b


@linear.register_fake
def _(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], x.shape[1], w.shape[1]))


@torch.library.custom_op("vmoe::dense_mlp", mutates_args=())
def dense_mlp(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """VmoeDenseMlp: x[N,T,D] -> y[N,T,D] = gelu_tanh(x . w1 + b1) . w2 + b2."""
    return F.gelu(x @ w1 + b1, approximate="tanh") @ w2 + b2


@dense_mlp.register_fake
def _(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("vmoe::attention", mutates_args=())
def attention(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> Tensor:
    """VmoeAttention: q[N,Q,D], k[N,T,D], v[N,T,D] -> y[N,Q,D], softmax(q . k / sqrt(D / H)) . v for each of H heads."""
    size = q.shape[2] // num_heads
    query, key, value = (x.reshape(*x.shape[:2], num_heads, size).transpose(1, 2) for x in (q, k, v))
    mixed: Tensor = torch.softmax((query * (1 / math.sqrt(size))) @ key.transpose(2, 3), dim=-1) @ value
    return mixed.transpose(1, 2).flatten(2).contiguous()


@attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> Tensor:
    return torch.empty_like(q)
