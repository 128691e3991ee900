"""Auxiliary losses that balance the load of the experts in training.

Source: "Scaling Vision with Sparse Mixture of Experts" (arXiv 2106.05974), appendix A, and `NoisyTopExpertsPerItemRouter` in
the official `vmoe/nn/routing.py`. For each MoE layer, the official trainer averages an auxiliary loss over the groups, and
adds it to the training loss with a weight. In official configs, the weight is 0.005 for each of the two auxiliary losses
(`vmoe/configs/vmoe_paper/common.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor


def importance_loss(logits: Tensor) -> Tensor:
    """Return the squared coefficient of variation of the experts' importance.

    The importance of an expert is the sum of its gates.

    Args:
        logits: float32[..., S, E], the `router_logits` of a layer.

    Returns:
        float32[...], one value per group. The value is 0 if all experts are equally important.

    Examples:
        >>> importance_loss(torch.tensor([[[0.0, 0.0], [0.0, 0.0]]]))
        tensor([0.])
    """
    return _squared_variation(torch.softmax(logits, dim=-1).sum(dim=-2))


def load_loss(logits: Tensor, noisy_logits: Tensor, k: int, noise_std: float = 1.0) -> Tensor:
    """Return the squared coefficient of variation of the experts' load.

    An expert's load is an average over the tokens. For each token, it is the probability that the token chooses the
    expert if the router's noise is drawn again.

    Args:
        logits: float32[..., S, E], the `router_logits` of a layer.
        noisy_logits: float32[..., S, E], the `noisy_router_logits` of the same layer.
        k: experts per token.
        noise_std: the `noise_std` of the model that added the noise. It must be above 0.

    Returns:
        float32[...], one value per group.
    """
    threshold = noisy_logits.topk(k, dim=-1).values[..., -1:]
    chance = torch.special.ndtr((logits - threshold) / (noise_std / logits.shape[-1]))
    return _squared_variation(chance.mean(dim=-2))


def _squared_variation(values: Tensor) -> Tensor:
    return (values.std(dim=-1, correction=0) / values.mean(dim=-1)) ** 2
