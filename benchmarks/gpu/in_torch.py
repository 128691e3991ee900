"""The kernels' computations in torch, written as an engineer would write them.

All shapes are fixed and no call waits for the GPU, so a CUDA graph can capture the calls. The rows are padded before the
timing (see `padded`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from on_gpu.shape import Shape
from torch import Tensor

from gpu.problem import Problem


def padded(rows: Tensor) -> Tensor:
    """Append a row of zeros to rows [N,D]. Empty slots and dropped pairs refer to this added row."""
    return torch.cat([rows, torch.zeros_like(rows[:1])])


def route(gates: Tensor, capacity: int, k: int, bpr: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Route with stable sorts: gates [G,S,E] -> slot i32[G,S,K], weight [G,S,K], src i32[E,G*c].

    The gates must not be NaN. Ties between experts may be broken differently than by the kernels, because topk does not
    specify their order.
    """
    groups, tokens, experts = gates.shape
    slots, on = groups * capacity, gates.device
    weight, expert = torch.topk(gates, k, dim=-1)
    token, served = torch.arange(tokens, device=on).expand(groups, tokens), expert
    if bpr:
        token = torch.argsort(weight[..., 0], dim=1, descending=True, stable=True)
        served = expert.gather(1, token[..., None].expand(-1, -1, k))
    chosen = served.transpose(1, 2).reshape(groups, k * tokens)  # all first choices come before all second choices
    by_expert, together = torch.sort(chosen, dim=1, stable=True)
    count = torch.zeros(groups, experts, dtype=torch.int64, device=on)
    count.scatter_add_(1, chosen, torch.ones_like(chosen))
    first = count.cumsum(1) - count
    rank_sorted = torch.arange(k * tokens, device=on) - first.gather(1, by_expert)
    rank = torch.empty_like(chosen).scatter_(1, together, rank_sorted)
    group = torch.arange(groups, device=on)[:, None]
    served_slot = (chosen * slots + group * capacity + rank).masked_fill(rank >= capacity, -1)
    slot = served_slot = served_slot.view(groups, k, tokens).transpose(1, 2)
    if bpr:
        slot = torch.empty_like(served_slot).scatter_(1, token[..., None].expand(-1, -1, k), served_slot)
    flat = (group * tokens + token)[..., None].expand(-1, -1, k).to(torch.int32)
    # Dropped pairs write to an extra slot at the end, which is cut off afterwards.
    src = torch.full((experts * slots + 1,), -1, dtype=torch.int32, device=on)
    src.scatter_(0, served_slot.masked_fill(served_slot < 0, experts * slots).reshape(-1), flat.reshape(-1))
    return slot.to(torch.int32), weight, src[:-1].view(experts, slots)


def dispatch(padded_x: Tensor, src: Tensor) -> Tensor:
    """Dispatch tokens with index_select.

    The padded tokens are [G*S+1,D], `src` is i32[E,M], and the result is [E*M,D]. M = G*C is the number of slots per expert.
    """
    row = src.reshape(-1)
    return padded_x.index_select(0, row.masked_fill(row < 0, padded_x.shape[0] - 1))


def combine(padded_out: Tensor, slot: Tensor, weight: Tensor) -> Tensor:
    """Combine expert outputs with index_select and a weighted sum over K.

    The padded outputs are [E*M+1,D], `slot` is i32[G,S,K], `weight` is f32[G,S,K], and the result is [G*S,D]. M = G*C is the
    number of slots per expert.
    """
    choices, row = slot.shape[2], slot.reshape(-1)
    rows = padded_out.index_select(0, row.masked_fill(row < 0, padded_out.shape[0] - 1))
    scale = weight.reshape(-1, choices, 1)
    return (rows.view(-1, choices, rows.shape[1]).float() * scale).sum(1).to(padded_out.dtype)


def peer_tensors(problem: Problem) -> dict[str, Tensor]:
    """Return the tensors of a problem, for use by torch.

    `x` and `out` get an extra row of zeros (see `padded`), to which empty slots and dropped pairs refer.
    """
    hidden, rows = problem.shape.hidden, ("x", "out") if problem.shape.hidden else ()
    return problem.tensors | {name: padded(problem.tensors[name].view(-1, hidden)) for name in rows}


def run(kernel: str, shape: Shape, t: Mapping[str, Tensor]) -> Any:
    """Compute in torch what the kernel named `kernel` computes."""
    if kernel == "combine":
        return combine(t["out"], t["slot"], t["weight"])
    if kernel == "dispatch":
        return dispatch(t["x"], t["src"])
    routed = route(t["gates"], shape.capacity, shape.choices, shape.bpr)
    return routed if kernel == "route" else dispatch(t["x"], routed[2])
