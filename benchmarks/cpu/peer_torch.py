"""The peers in eager torch: a dense ViT and a V-MoE that computes only the tokens that were kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cpu.peer_graphs import TensorSource
from vmoe_export.model.model_config import ModelConfig

Array = np.ndarray[Any, np.dtype[Any]]
Mlp = Callable[[Tensor], Tensor]

_EPSILON = 1e-6


class TorchVit:
    """A V-MoE or dense ViT with Batch Priority Routing, every image routed alone.

    Args:
        config: the model.
        tensors: its weights.
    """

    def __init__(self, config: ModelConfig, tensors: TensorSource) -> None:
        self._config = config
        self._weights: dict[str, Tensor] = {}
        self._tensors = tensors

    def __call__(self, images: Array, capacity: int = 0, k: int = 0) -> Array:
        """Logits float32[N, classes] of images float32[N,H,W,C]; capacity is in places per expert and image."""
        config = self._config
        with torch.inference_mode():
            x = self._embed(torch.from_numpy(images))
            for i in range(config.num_layers):
                block = f"Encoder/encoderblock_{i}"
                x = x + self._attention(f"{block}/SelfAttention", self._norm(f"{block}/LayerNorm_0", x))
                normed = self._norm(f"{block}/LayerNorm_1", x)
                if config.moe and i in config.moe.layers:
                    x = x + self._moe(f"{block}/Moe", normed, capacity, k)
                else:
                    x = x + self._mlp(f"{block}/Mlp", normed)
            first = self._norm("Encoder/encoder_norm", x[:, 0])
            return F.linear(first, self._kernel("head/kernel"), self._weight("head/bias")).numpy()

    def _weight(self, name: str) -> Tensor:
        if name not in self._weights:
            self._weights[name] = torch.from_numpy(self._tensors[name])
        return self._weights[name]

    def _kernel(self, name: str, outputs: int = -1) -> Tensor:
        """A kernel as F.linear takes it, [outputs, inputs]; a view, as that was no slower than a copy."""
        kernel = self._weight(name)
        if kernel.ndim == 3:
            kernel = kernel.reshape(outputs, -1) if name.endswith("out/kernel") else kernel.reshape(kernel.shape[0], -1)
        return kernel.T

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self._weight(f"{name}/scale"), self._weight(f"{name}/bias"), _EPSILON)

    def _embed(self, image: Tensor) -> Tensor:
        config = self._config
        (rows, columns), (height, width) = config.grid, config.patch_size
        x = image.reshape(-1, rows, height, columns, width, config.channels).permute(0, 1, 3, 2, 4, 5)
        kernel = self._weight("embedding/kernel").reshape(-1, config.hidden_size)
        x = F.linear(x.reshape(len(x), rows * columns, -1), kernel.T, self._weight("embedding/bias"))
        x = torch.cat([self._weight("cls").expand(len(x), -1, -1), x], dim=1)
        return x + self._weight("Encoder/posembed_input/pos_embedding")

    def _attention(self, name: str, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        heads = self._config.num_heads
        query, key, value = (
            F.linear(x, self._kernel(f"{name}/{which}/kernel"), self._weight(f"{name}/{which}/bias").reshape(-1))
            .reshape(batch, tokens, heads, width // heads)
            .transpose(1, 2)
            for which in ("query", "key", "value")
        )
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, tokens, width)
        return F.linear(mixed, self._kernel(f"{name}/out/kernel", width), self._weight(f"{name}/out/bias"))

    def _mlp(self, name: str, x: Tensor) -> Tensor:
        names = (f"{name}/{layer}/{what}" for layer in ("Dense_0", "Dense_1") for what in ("kernel", "bias"))
        return _mlp(x, *(self._weight(name) for name in names))

    def _moe(self, name: str, x: Tensor, capacity: int, k: int) -> Tensor:
        batch, tokens, width = x.shape
        gates = torch.softmax(x @ self._weight(f"{name}/Router/dense/kernel"), dim=-1)
        source, expert, weight = _kept_pairs(gates, capacity, k)
        rows, result = x.reshape(-1, width), torch.zeros(batch * tokens, width)
        order = expert.argsort(stable=True)
        counts = torch.bincount(expert, minlength=gates.shape[-1]).tolist()
        experts = [
            self._weight(f"{name}/Mlp/{layer}/{what}") for layer in ("Dense_0", "Dense_1") for what in ("kernel", "bias")
        ]
        for e, pairs in enumerate(torch.split(order, counts)):
            if len(pairs):
                out = _mlp(rows[source[pairs]], *(tensor[e] for tensor in experts))
                result.index_add_(0, source[pairs], out * weight[pairs, None])
        return result.reshape(batch, tokens, width)


def _mlp(x: Tensor, kernel0: Tensor, bias0: Tensor, kernel1: Tensor, bias1: Tensor) -> Tensor:
    return F.linear(F.gelu(F.linear(x, kernel0.T, bias0), approximate="tanh"), kernel1.T, bias1)


def _kept_pairs(gates: Tensor, capacity: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Flat token, expert and gate of each pair that gets a place; gates[N,T,E]."""
    batch, tokens, experts = gates.shape
    gate, chosen = gates.topk(k, dim=-1)
    # A later choice comes after all earlier ones: a power of two below 1/E keeps them apart without rounding.
    later = 0.5 ** (math.ceil(math.log2(experts)) + 1)
    turn = later ** torch.arange(k)
    key = torch.zeros_like(gates).scatter_(-1, chosen, gate[..., :1] * turn)
    taken, token = key.topk(min(capacity, tokens), dim=1)
    where = torch.arange(batch)[:, None, None], token, torch.arange(experts)
    weight = gates[where]
    kept = taken > 0
    flat = where[0] * tokens + token
    return flat[kept], where[2].expand_as(token)[kept], weight[kept]
