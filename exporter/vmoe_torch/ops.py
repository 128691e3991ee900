"""The operations of the torch model. Shapes are those of the op table. All tensors are on one device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from vmoe_export.ops.table import SIGMOID_SLOPES, SOFT_EPSILON, Activation


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Return a context that disables autocast. In a shorter type, tokens could be routed or merged differently."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def router_logits(x: Tensor, router: Tensor) -> Tensor:
    """Compute x[G,S,D] . router[D,E] -> float32[G,S,E]. With an E3's router [D,M,E/M], the result is [G,M,S/M,E/M]."""
    with full_precision(x):
        if router.dim() == 2:
            return x.float() @ router.float()
        by_member = x.float().reshape(len(x), -1, router.shape[1], x.shape[2]).transpose(1, 2)
        logits: Tensor = by_member @ router.float().transpose(0, 1)
        return logits


def gates(logits: Tensor) -> Tensor:
    """Convert `router_logits` to gates[G,S,E].

    The rows of an E3 are in (token, member) order. A row's gates for the experts of other members are 0.
    """
    gates = torch.softmax(logits, dim=-1)
    if logits.dim() == 3:
        return gates
    own = torch.eye(logits.shape[1], device=logits.device)
    return (gates.transpose(1, 2)[..., None, :] * own[..., None]).flatten(3).flatten(1, 2)


def dispatch(x: Tensor, src: Tensor) -> Tensor:
    """Compute VmoeDispatch: x[G,S,D], src[E,M] -> buf[E,M,D]. Rows whose src is -1 are zero."""
    return F.pad(x.flatten(0, 1), (0, 0, 0, 1))[src.long()]


def mlp(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, activation: Activation = "gelu_tanh") -> Tensor:
    """Compute activation(x . w1 + b1) . w2 + b2 for x[..., T, D]. All arguments may have a leading axis of experts."""
    hidden = x @ w1 + b1
    if activation in SIGMOID_SLOPES:
        return hidden * torch.sigmoid(SIGMOID_SLOPES[activation] * hidden) @ w2 + b2
    return F.gelu(hidden, approximate="tanh" if activation == "gelu_tanh" else "none") @ w2 + b2


def expert_mlp(
    buf: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    activation: Activation = "gelu_tanh",
    *,
    dispatch_bf16: bool = False,
) -> Tensor:
    """Compute VmoeExpertMlp: buf[E,M,D] -> out[E,M,D]. With `dispatch_bf16`, input and output are rounded to bfloat16."""
    out = mlp(_round_bf16(buf) if dispatch_bf16 else buf, w1, b1[:, None], w2, b2[:, None], activation)
    return _round_bf16(out) if dispatch_bf16 else out


def attention(q: Tensor, k: Tensor, v: Tensor, num_heads: int, sizes: Tensor | None = None) -> Tensor:
    """Compute VmoeAttention: q[N,Q,D], k[N,T,D], v[N,T,D] -> y[N,Q,D], softmax(q . k / sqrt(D / H)) . v for each of H heads.

    If sizes[N,T] are passed, the logarithm of a key's size is added to its scores.
    """
    query, key, value = (x.reshape(*x.shape[:2], num_heads, -1).transpose(1, 2) for x in (q, k, v))
    by_size = None if sizes is None else sizes.log().to(query.dtype)[:, None, None]
    return F.scaled_dot_product_attention(query, key, value, by_size).transpose(1, 2).flatten(2)


def combine(out: Tensor, slot: Tensor, weight: Tensor) -> Tensor:
    """Compute VmoeCombine: y[G,S,D] = sum over k of weight * out[slot], in float32.

    Dropped pairs, whose slot is -1, add nothing.
    """
    picked = F.pad(out.flatten(0, 1), (0, 0, 0, 1))[slot.long()].float()
    return (torch.where(slot < 0, 0.0, weight.float())[..., None] * picked).sum(dim=2).to(out.dtype)


def soft_router(x: Tensor, mu: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Compute VmoeSoftRouter: x[G,S,D], mu[D,E,P], scale[] -> (dispatch[G,S,E,P], combine[G,S,E,P])."""
    logits = _unit(x, -1) @ (_unit(mu, 0) * scale).flatten(1)
    shape = (*x.shape[:2], *mu.shape[1:])
    return torch.softmax(logits, dim=1).reshape(shape), torch.softmax(logits, dim=2).reshape(shape)


def soft_dispatch(x: Tensor, dispatch: Tensor, dispatch_bf16: bool) -> Tensor:
    """Compute VmoeSoftDispatch: x[G,S,D], dispatch[G,S,E,P] -> buf[E,M,D], where M = G * P.

    Slot p of group g is row g * P + p of an expert.
    """
    rows = _round_bf16(x) if dispatch_bf16 else x
    groups, _, experts, slots = dispatch.shape
    mixed = dispatch.flatten(2).transpose(1, 2) @ rows
    by_expert = mixed.reshape(groups, experts, slots, -1).transpose(0, 1)
    return by_expert.reshape(experts, groups * slots, x.shape[2])


def soft_combine(out: Tensor, combine: Tensor, dispatch_bf16: bool) -> Tensor:
    """Compute VmoeSoftCombine: out[E,M,D], combine[G,S,E,P] -> y[G,S,D], the sum of combine * out over a group's slots."""
    rows = _round_bf16(out) if dispatch_bf16 else out
    groups, _, experts, slots = combine.shape
    by_group = rows.reshape(experts, groups, slots, out.shape[2]).transpose(0, 1)
    return combine.flatten(2) @ by_group.reshape(groups, experts * slots, out.shape[2])


def _round_bf16(x: Tensor) -> Tensor:
    return x.bfloat16().to(x.dtype)


def _unit(x: Tensor, axis: int) -> Tensor:
    """Divide x by its Euclidean norm along an axis."""
    return x / torch.sqrt((x * x).sum(dim=axis, keepdim=True) + SOFT_EPSILON)
