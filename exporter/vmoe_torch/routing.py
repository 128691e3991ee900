"""Routing in torch, entirely on the device that holds the gates.

The settings are plain Python numbers, and no data leaves the device. Calls therefore do not wait for the device,
and they may be captured in a CUDA graph or run on torch's `meta` device. The exception is a call with a pool,
because the number of slots that an expert needs is known only on the device.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def route(
    gates: Tensor, capacity: int, k: int, bpr: bool, pool: bool = False, max_experts: int | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute VmoeRoute, with the same results as the numpy reference.

    Args:
        gates: [G,S,E] of any float type, on any device.
        capacity: slots per expert and group.
        k: experts per token, 1 to E.
        bpr: whether Batch Priority Routing sets the order in which tokens are served. If not, they are served in
            their own order.
        pool: whether the experts of a group share one pool of slots. If so, the call waits for the device once,
            unless it is compiled.
        max_experts: number of experts that a group may use. If None, a group may use all experts.

    Returns:
        slot i32[G,S,K], weight[G,S,K] in the gates' type, src i32[E,M] and expert i32[G,S,K], on the gates' device.
    """
    (groups, tokens, experts), device = gates.shape, gates.device
    ranked = gates.detach().float().nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)
    value, order = ranked.sort(dim=-1, descending=True, stable=True)
    expert = order[..., :k]
    weight = gates.gather(-1, expert)
    priority = value[..., 0] if bpr else torch.zeros_like(value[..., 0])
    serving = priority.argsort(dim=-1, descending=True, stable=True)

    # Each group's queue holds all first choices in serving order, then all second choices, and so on.
    queue = expert.gather(1, serving[..., None].expand_as(expert)).transpose(1, 2).reshape(groups, -1)
    is_open = torch.ones_like(queue, dtype=torch.bool)
    if max_experts is not None and max_experts < experts:
        is_open = _allowed_experts(value[..., 0], order[..., 0], experts, max_experts).gather(1, queue)
    # The result of this comparison takes one byte per element. The result of torch's one_hot would take eight.
    asks = queue[..., None] == torch.arange(experts, device=device)
    position = asks.cumsum(dim=1).gather(2, queue[..., None])[..., 0] - 1
    group = torch.arange(groups, device=device)[:, None]
    if pool:
        kept = is_open & (is_open.cumsum(dim=1) <= experts * capacity)
        taken = (asks & kept[..., None]).sum(dim=1)
        # Compiled code needs a fixed bound on the number of slots per expert. This bound holds because an expert gets
        # each token at most once, and the pool of a group has experts * capacity slots.
        most = groups * min(tokens, experts * capacity)
        row = most if torch.compiler.is_compiling() else max(1, int(taken.sum(dim=0).max()))
        first_slot = (taken.cumsum(dim=0) - taken).gather(1, queue)
    else:
        kept = is_open & (position < capacity)
        row = groups * capacity
        first_slot = group * capacity
    queue_slot = torch.where(kept, queue * row + first_slot + position, -1)

    served = queue_slot.reshape(groups, k, tokens).transpose(1, 2)
    slot = torch.empty_like(served).scatter_(1, serving[..., None].expand_as(served), served)
    token = (group * tokens + serving).repeat(1, k)
    # The tokens of dropped pairs are written to an extra slot after the last one. To skip dropped pairs, the CPU
    # would have to know how many there are.
    src = torch.full((experts * row + 1,), -1, device=device)
    src.scatter_(0, torch.where(kept, queue_slot, experts * row).flatten(), token.flatten())
    return slot.to(torch.int32), weight, src[:-1].reshape(experts, row).to(torch.int32), expert.to(torch.int32)


def _allowed_experts(gate: Tensor, first: Tensor, experts: int, limit: int) -> Tensor:
    """Return the experts that each group may use: the `limit` experts with the largest mass.

    The mass of an expert is the sum of the gates, clamped to [0, 1], of all tokens whose first choice is this
    expert. The result is a mask, bool[G,E], and equals the mask of the numpy reference.

    Args:
        gate: [G,S], the gate of each token's first choice.
        first: i64[G,S], the expert that is each token's first choice.
        experts: E.
        limit: number of experts that a group may use.
    """
    units = (gate.clamp(0, 1) * 2**14).to(torch.int64)
    mass = units.new_zeros((gate.shape[0], experts)).scatter_add_(1, first, units)
    best = mass.argsort(dim=1, descending=True, stable=True)[:, :limit]
    return torch.zeros_like(mass, dtype=torch.bool).scatter_(1, best, True)


def choose_tokens(gates: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
    """Compute VmoeChooseTokens, with the same results as the numpy reference.

    Args:
        gates: [G,S,E], on any device.
        capacity: number of tokens that an expert takes from each group.

    Returns:
        slot i32[G,S,E] and src i32[E,M], on the device of the gates.
    """
    (groups, tokens, experts), device = gates.shape, gates.device
    ranked = gates.detach().nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)
    order = ranked.argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1)
    group = torch.arange(groups, device=device)[:, None, None]
    position = torch.arange(experts, device=device) * groups * capacity + group * capacity + rank
    slot = torch.where(rank < capacity, position, -1)
    chosen = F.pad((group * tokens + order)[:, :capacity], (0, 0, 0, max(0, capacity - tokens)), value=-1)
    return slot.to(torch.int32), chosen.permute(2, 0, 1).reshape(experts, groups * capacity).to(torch.int32)
