"""The expected result of every kernel, bit for bit, computed in torch.

On a CPU, the code is fast enough for groups of 65,536 tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

_UNSIGNED = {1: torch.uint8, 2: torch.int16, 4: torch.int32}  # integer types for comparing bits, by the number of bytes


def same_bits(first: Tensor, second: Tensor) -> Tensor:
    """Return, for each element, whether its bits are the same in both tensors.

    The tensors must have the same dtype and shape.
    """
    bits = _UNSIGNED[first.element_size()]
    return first.contiguous().view(bits) == second.contiguous().view(bits)


def route(gates: Tensor, capacity: int, k: int, bpr: bool, fast: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Compute VmoeRoute: gates [G,S,E] -> slot i32[G,S,K], weight [G,S,K], src i32[E,G*c].

    Each group orders its (token, expert) pairs by choice: all first choices come before all second choices. Within a choice,
    tokens are ordered by descending best gate if `bpr` is true, and by position otherwise.

    If r earlier pairs of group g have the expert e, the next pair with e gets the slot e * G * c + g * c + r. If r is c or
    more, that pair is dropped, and its slot is -1.

    Only timings set `fast`. Gates must then not be NaN, and ties between experts may be broken differently, because topk
    does not specify their order.
    """
    groups, tokens, experts = gates.shape
    slots, on = groups * capacity, gates.device
    if fast:
        weight, expert = torch.topk(gates, k, dim=-1)
        best = weight[..., 0]
    else:
        ranked = gates.float()
        ranked = torch.where(ranked.isnan(), 0.0, ranked)
        expert = ranked.argsort(dim=2, descending=True, stable=True)[..., :k]
        weight, best = gates.gather(2, expert), ranked.amax(dim=2)
    token, served = torch.arange(tokens, device=on).expand(groups, tokens), expert
    if bpr:
        token = torch.argsort(best, dim=1, descending=True, stable=True)
        served = expert.gather(1, token[..., None].expand(-1, -1, k))
    chosen = served.transpose(1, 2).reshape(groups, k * tokens)
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


def dispatch(x: Tensor, src: Tensor) -> Tensor:
    """Compute VmoeDispatch: x [G,S,D], src i32[E,M] -> buf [E,M,D].

    If a value in src is -1, its row in buf is zero.
    """
    buf = x.flatten(0, 1)[src.clamp(min=0).long()]
    buf[src < 0] = 0
    return buf


def combine(out: Tensor, slot: Tensor, weight: Tensor) -> Tensor:
    """Compute VmoeCombine: out [E,M,D], slot i32[G,S,K], weight [G,S,K] -> y [G,S,D].

    Products and sums are in float32, and terms are added in the order of the choices. Only the final sum is rounded to the
    type of y.
    """
    rows, scale = out.flatten(0, 1), weight.float()
    total = torch.zeros(*slot.shape[:2], out.shape[-1])
    for choice in range(slot.shape[2]):
        kept = slot[..., choice] >= 0
        product = scale[..., choice][kept][:, None] * rows[slot[..., choice][kept].long()].float()
        # The sum starts with the first product instead of 0, because 0 + -0 would be 0, not -0.
        total[kept] = product if choice == 0 else total[kept] + product
    return total.to(out.dtype)
