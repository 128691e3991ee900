"""Check that the code of the gates kernel gives the same bits on the GPU and on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from on_gpu import exact
from on_gpu.check import Check
from on_gpu.device import Device
from on_gpu.library import Library

_SIZES = ((1, 768, 8), (197, 768, 8), (16 * 197, 768, 8), (1000, 384, 32), (50, 1024, 256), (7, 96, 100), (9, 33, 7))
"""Tokens, D and E, chosen to use both programs, with 16-byte words and with single numbers."""
_TOLERANCE = 3e-6  # largest relative difference between a gate and its value in double precision
_KINDS = ("any", "no numbers", "misaligned")


def check_gates(device: Device, kernels: Library, seed: int) -> Check:
    """Check the gates of random tokens, of tokens with NaN and infinity, and of rows that aren't aligned to 16 bytes."""
    failures = []
    for tokens, hidden, experts in _SIZES:
        for kind in _KINDS:
            draw = torch.Generator().manual_seed(seed + tokens * experts)
            x = torch.randn(tokens, hidden, generator=draw)
            router = torch.randn(hidden, experts, generator=draw) / hidden**0.5
            if kind == "no numbers":
                x[::3, 0], x[1::3, -1] = torch.nan, torch.inf
            case = f"gates [{tokens}, {experts}] of D {hidden}, {kind}, seed {seed}"
            failures += [f"{case}: {what}" for what in _differences(device, kernels, x, router, kind == "misaligned")]
    return Check("gates", len(_SIZES) * len(_KINDS), tuple(failures))


def _differences(device: Device, kernels: Library, x: Tensor, router: Tensor, misaligned: bool) -> list[str]:
    sizes = *x.shape, router.shape[1]
    on_gpu = torch.zeros(x.numel() + 1, device=device.torch_device)
    rows = on_gpu[1:] if misaligned else on_gpu[:-1]
    rows.copy_(x.view(-1))
    router_on_gpu = router.to(device.torch_device)
    gates = torch.full((sizes[0] * sizes[2] + 1,), -1.0, device=device.torch_device)
    kernels.call("gates", rows.data_ptr(), router_on_gpu.data_ptr(), *sizes, gates.data_ptr(), device.stream())
    device.synchronize()
    got, wanted = gates[:-1].cpu().view(sizes[0], -1), torch.empty(sizes[0], sizes[2])
    kernels.call("gates_on_host", x.data_ptr(), router.data_ptr(), *sizes, wanted.data_ptr())
    exact_gates = (x.double() @ router.double()).softmax(dim=-1)
    wrong = ~exact.same_bits(got, wanted) & ~(got.isnan() & wanted.isnan())
    far = ~torch.isclose(wanted.double(), exact_gates, rtol=_TOLERANCE, atol=1e-37, equal_nan=True)
    found = {"differ from the CPU's": wrong, "of the CPU are far from double precision": far}
    said = [f"{int(where.sum())} of {where.numel()} {what}" for what, where in found.items() if where.any()]
    return [*said, "the number behind them was written"] if gates[-1].item() != -1 else said
