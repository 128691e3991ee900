"""The kernels' computations in torch, written as an engineer would write them.

All shapes are fixed and no call waits for the GPU, so a CUDA graph can capture the calls. The rows are padded before the
timing (see `padded`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from on_gpu import exact
from on_gpu.problem import Problem
from on_gpu.shape import Shape
from torch import Tensor


def padded(rows: Tensor) -> Tensor:
    """Append a row of zeros to rows [N,D]. Empty slots and dropped pairs refer to this added row."""
    return torch.cat([rows, torch.zeros_like(rows[:1])])


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
    if kernel == "Combine":
        return combine(t["out"], t["slot"], t["weight"])
    if kernel == "Dispatch":
        return dispatch(t["x"], t["src"])
    routed = exact.route(t["gates"], shape.capacity, shape.choices, shape.bpr, fast=True)
    return routed if kernel == "Route" else dispatch(t["x"], routed[2])
