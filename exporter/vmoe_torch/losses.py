"""The auxiliary losses that keep experts equally busy in training.

Source: "Scaling Vision with Sparse Mixture of Experts" (arXiv 2106.05974), appendix A, and `NoisyTopExpertsPerItemRouter` in
the official `vmoe/nn/routing.py`. The official trainer adds to the loss, for each MoE layer, the mean over the groups of
weight * loss; official configs have a weight of 0.005 for each of the two (`vmoe/configs/vmoe_paper/common.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor


def importance_loss(logits: Tensor) -> Tensor:
    """How unequal the sums of the experts' gates are: their squared coefficient of variation.

    Args:
        logits: float32[..., S, E], `router_logits` of a layer.

    Returns:
        float32[...], one value for each group; 0 if the sums are equal.

    Examples:
        >>> importance_loss(torch.tensor([[[0.0, 0.0], [0.0, 0.0]]]))
        tensor([0.])
    """
    return _squared_variation(torch.softmax(logits, dim=-1).sum(dim=-2))


def load_loss(logits: Tensor, noisy_logits: Tensor, k: int, noise_std: float = 1.0) -> Tensor:
    """How unequal the probabilities are that each expert is chosen if the router's noise is drawn again.

    Args:
        logits: float32[..., S, E], `router_logits` of a layer.
        noisy_logits: the same with noise, `noisy_router_logits`.
        k: experts per token.
        noise_std: of the model that added the noise, above 0.

    Returns:
        float32[...], one value for each group.
    """
    threshold = noisy_logits.topk(k, dim=-1).values[..., -1:]
    chance = torch.special.ndtr((logits - threshold) / (noise_std / logits.shape[-1]))
    return _squared_variation(chance.mean(dim=-2))


def _squared_variation(values: Tensor) -> Tensor:
    return (values.std(dim=-1, correction=0) / values.mean(dim=-1)) ** 2
