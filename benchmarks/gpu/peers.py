"""What a careful engineer writes in torch instead of the kernels.

All shapes are fixed and nothing waits for the card, so that it fits a CUDA graph.
"""

from __future__ import annotations

from typing import Any

from gpu.shapes import Shape

Tensor = Any


def route(gates: Tensor, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Routing by sorts: gates [G,S,E] -> (slot i32[G,S,K], weight [G,S,K], src i32[E,M]).

    Ties between experts may fall otherwise than in VmoeRoute, because topk leaves their order open.
    """
    import torch

    groups, tokens, experts = gates.shape
    choices, capacity, places = shape.choices, shape.capacity, shape.groups * shape.capacity
    weight, expert = torch.topk(gates, choices, dim=-1)
    served = expert
    if shape.bpr:
        order = torch.argsort(weight[..., 0], dim=1, descending=True, stable=True)
        served = expert.gather(1, order[..., None].expand(-1, -1, choices))
    asked_of = served.transpose(1, 2).reshape(groups, choices * tokens)
    by_expert, together = torch.sort(asked_of, dim=1, stable=True)
    asked = torch.zeros(groups, experts, dtype=torch.int64, device=gates.device)
    asked.scatter_add_(1, asked_of, torch.ones_like(asked_of))
    first = asked.cumsum(1) - asked
    rank_sorted = torch.arange(choices * tokens, device=gates.device) - first.gather(1, by_expert)
    rank = torch.empty_like(asked_of).scatter_(1, together, rank_sorted)
    group = torch.arange(groups, device=gates.device)[:, None]
    served_slot = (asked_of * places + group * capacity + rank).masked_fill(rank >= capacity, -1)
    served_slot = served_slot.view(groups, choices, tokens).transpose(1, 2)
    token = torch.arange(tokens, device=gates.device).expand(groups, tokens)
    slot = served_slot
    if shape.bpr:
        token = order
        slot = torch.empty_like(served_slot).scatter_(1, order[..., None].expand(-1, -1, choices), served_slot)
    flat = (group * tokens + token)[..., None].expand(-1, -1, choices).to(torch.int32)
    # Dropped pairs write to a place behind the last one.
    src = torch.full((experts * places + 1,), -1, dtype=torch.int32, device=gates.device)
    src.scatter_(0, served_slot.masked_fill(served_slot < 0, experts * places).reshape(-1), flat.reshape(-1))
    return slot.to(torch.int32), weight, src[:-1].view(experts, places)


def padded(rows: Tensor) -> Tensor:
    """Rows [N,D] with a row of zeros behind them, for indices that mean nothing; made before anything is timed."""
    import torch

    return torch.cat([rows, torch.zeros_like(rows[:1])])


def dispatch(padded_x: Tensor, src: Tensor) -> Tensor:
    """Padded tokens [G*S+1,D], src i32[E,M] -> buf [E*M,D], by index_select."""
    row = src.reshape(-1)
    return padded_x.index_select(0, row.masked_fill(row < 0, padded_x.shape[0] - 1))


def combine_add(out: Tensor, slot: Tensor, weight: Tensor) -> Tensor:
    """out [E*M,D], slot i32[G,S,K], weight f32[G,S,K] -> y [G*S,D], by index_add_ of weighted rows in float32."""
    import torch

    rows = slot.reshape(-1)
    scale = weight.reshape(-1).masked_fill(rows < 0, 0)
    product = out.index_select(0, rows.clamp(min=0)).float() * scale[:, None]
    tokens = slot.shape[0] * slot.shape[1]
    token = torch.arange(tokens, device=out.device)[:, None].expand(-1, slot.shape[2]).reshape(-1)
    y = torch.zeros(tokens, out.shape[1], device=out.device)
    return y.index_add_(0, token, product).to(out.dtype)


def combine_sum(padded_out: Tensor, slot: Tensor, weight: Tensor) -> Tensor:
    """Padded rows [E*M+1,D], slot i32[G,S,K], weight f32[G,S,K] -> y [G*S,D], by index_select and a sum over K."""
    choices = slot.shape[2]
    row = slot.reshape(-1)
    rows = padded_out.index_select(0, row.masked_fill(row < 0, padded_out.shape[0] - 1))
    scale = weight.reshape(-1, choices, 1)
    return (rows.view(-1, choices, rows.shape[1]).float() * scale).sum(1).to(padded_out.dtype)
