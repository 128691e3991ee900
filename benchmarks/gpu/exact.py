"""What every kernel must give, bit for bit, in torch on the CPU: fast enough for groups of 65,536 tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from gpu.shapes import Type

TORCH_TYPES: dict[Type, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_UNSIGNED = {1: torch.uint8, 2: torch.int16, 4: torch.int32}  # bits to compare, by bytes


def same_bits(first: Tensor, second: Tensor) -> Tensor:
    """Where two tensors of one dtype have the same bits, bool of their shape."""
    bits = _UNSIGNED[first.element_size()]
    return first.contiguous().view(bits) == second.contiguous().view(bits)


def route(gates: Tensor, capacity: int, k: int, bpr: bool) -> tuple[Tensor, Tensor, Tensor]:
    """VmoeRoute: gates [G,S,E] -> slot i32[G,S,K], weight [G,S,K], src i32[E,G*c].

    A pair's place is the number of pairs that its expert was asked for before it, in the order of service: all first
    choices before any second one; within one, tokens by descending best gate, or as they come.
    """
    groups, tokens, experts = gates.shape
    ranked = gates.float()
    ranked = torch.where(ranked.isnan(), 0.0, ranked)
    expert = ranked.argsort(dim=2, descending=True, stable=True)[..., :k]
    weight = gates.gather(2, expert)
    best = ranked.amax(dim=2) if bpr else torch.zeros(groups, tokens)
    order = best.argsort(dim=1, descending=True, stable=True)
    group = torch.arange(groups)[:, None, None]
    # In the order of service, [G,K,S]: which expert of which group is asked for a place.
    served_expert = expert.gather(1, order[..., None].expand_as(expert)).transpose(1, 2)
    asked_of = (group * experts + served_expert).flatten()
    together = asked_of.argsort(stable=True)
    asked = torch.bincount(asked_of, minlength=groups * experts)
    rank = torch.empty_like(asked_of)
    rank[together] = torch.arange(asked_of.numel()) - (asked.cumsum(0) - asked).repeat_interleave(asked)
    rank = rank.view(served_expert.shape)
    places = groups * capacity
    served_slot = torch.where(rank < capacity, served_expert * places + group * capacity + rank, -1)
    slot = torch.empty_like(expert).scatter_(1, order[..., None].expand_as(expert), served_slot.transpose(1, 2))
    src = torch.full((experts * places,), -1, dtype=torch.int32)
    token = (group * tokens + order[:, None]).expand_as(served_slot).to(torch.int32)
    src[served_slot[served_slot >= 0]] = token[served_slot >= 0]
    return slot.to(torch.int32), weight, src.view(experts, places)


def dispatch(x: Tensor, src: Tensor) -> Tensor:
    """VmoeDispatch: x [G,S,D], src i32[E,M] -> buf [E,M,D], zero where src is -1."""
    buf = x.flatten(0, 1)[src.clamp(min=0).long()]
    buf[src < 0] = 0
    return buf


def combine(out: Tensor, slot: Tensor, weight: Tensor) -> Tensor:
    """VmoeCombine: out [E,M,D], slot i32[G,S,K], weight [G,S,K] -> y [G,S,D].

    Products and sums are float32, in the order of the choices; the sum is rounded once.
    """
    rows, scale = out.flatten(0, 1), weight.float()
    total = torch.zeros(*slot.shape[:2], out.shape[-1])
    for choice in range(slot.shape[2]):
        kept = slot[..., choice] >= 0
        product = scale[..., choice][kept][:, None] * rows[slot[..., choice][kept].long()].float()
        # The first product is taken as it is: 0 + -0 would be 0.
        total[kept] = product if choice == 0 else total[kept] + product
    return total.to(out.dtype)
