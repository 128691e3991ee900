"""Routers that use all experts about equally, as training makes them.

All tokens of a random model have a part in common, more of it in every layer, and a random router sends them where that
part points. Experts that nobody asks for would make every implementation that skips empty places look too good. So a
router here is N(0, 0.02) without the direction of the mean token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cpu.peer_torch import TorchVit
from vmoe_export.model.model_config import ModelConfig
from vmoe_export.model.parameters import parameter_shapes

Array = np.ndarray[Any, np.dtype[Any]]
MakeTensor = Callable[[str, tuple[int, ...]], Array]


def balance_routers(config: ModelConfig, make: MakeTensor, images: Array) -> MakeTensor:
    """Like `make`, which gives a tensor of a name and shape, but with balanced routers.

    Args:
        config: a V-MoE.
        make: its weights.
        images: float32[N,H,W,C], for which the routers are balanced.
    """
    shapes = parameter_shapes(config)
    network = _Balancing(config, {name: make(name, shape) for name, shape in shapes.items()})
    network(images, capacity=config.num_tokens, k=1)
    return lambda name, shape: network.routers[name] if name in network.routers else make(name, shape)


class _Balancing(TorchVit):
    """A V-MoE that changes the router of each MoE layer before it is used."""

    def __init__(self, config: ModelConfig, tensors: dict[str, Array]) -> None:
        super().__init__(config, tensors)
        self.routers: dict[str, Array] = {}

    def _moe(self, name: str, x: Tensor, capacity: int, k: int) -> Tensor:
        router = f"{name}/Router/dense/kernel"
        kernel, mean = self._weight(router), x.mean(dim=(0, 1))
        self._weights[router] = kernel - torch.outer(mean, mean @ kernel) / (mean @ mean)
        self.routers[router] = self._weights[router].numpy()
        return super()._moe(name, x, capacity, k)
