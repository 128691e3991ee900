"""The V-MoE in torch, for who wants to train or evaluate it there; an export doesn't need it.

Modules and parameters carry the names of the official tree (vmoe/nn/vit_moe.py), so that a parameter's path with `/` for
`.` is its name in the checkpoint. Kernels are [inputs, outputs], as they are stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from vmoe_export.model.model_config import ModelConfig, MoeConfig
from vmoe_export.model.parameters import POSITION_EMBEDDING, graph_shape, stored_parameters
from vmoe_export.ops import torch_ops
from vmoe_export.ops.table import LAYER_NORM_EPSILON
from vmoe_runtime.bundle.manifest import Output
from vmoe_runtime.routing_kinds import LAYER_OUTPUTS


class _Parameters(nn.Module):
    """A node of the parameter tree; children and parameters are added by name."""


class Vmoe(nn.Module):
    """A V-MoE or dense ViT in float32.

    Args:
        config: what the model is.
        group_tokens: S, tokens per routing group; must divide the tokens of every batch.
        output: "logits", or "features" for what the head gets. Of an ensemble (E3) "logits" are the official prediction, the
            logarithm of the members' mean probability, and "members" are each member's logits.
        uint8_input: take uint8 images and scale them to [-1, 1] inside.
    """

    def __init__(
        self,
        config: ModelConfig,
        group_tokens: int,
        *,
        output: Output = "logits",
        uint8_input: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.group_tokens = group_tokens
        self.output = output
        self.uint8_input = uint8_input
        for name, shape in stored_parameters(config, features=output == "features").items():
            self._add_parameter(name, graph_shape(name, shape))

    @property
    def layer_outputs(self) -> tuple[str, ...]:
        """The outputs of each MoE layer, in order; see `vmoe_runtime.routing_kinds`."""
        moe = self.config.moe
        return LAYER_OUTPUTS[moe.routing.kind] if moe else ()

    def load_weights(self, path: Path) -> Self:
        """Takes every parameter from a weights file, as a view of the mapped file."""
        with safe_open(path, framework="pt") as file:
            state = {
                name: file.get_tensor(name.replace(".", "/")).view(parameter.shape)
                for name, parameter in self.named_parameters()
            }
        self.load_state_dict(state, assign=True)
        return self.requires_grad_(False)

    def forward(
        self,
        image: Tensor,
        capacity: Tensor | None = None,
        k: Tensor | None = None,
        bpr: Tensor | None = None,
        pool: Tensor | None = None,
        max_experts: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Runs the model, which takes the settings of its routing kind; a dense ViT and a Soft MoE only the image.

        The image is on the device of the weights, and settings in the CPU's memory.

        Args:
            image: float32[N,H,W,C] in [-1, 1], or uint8[N,H,W,C] with `uint8_input`.
            capacity: i64[number of MoE layers], slots per expert and group.
            k: i64[1], experts per token.
            bpr: i64[1], 1 for Batch Priority Routing, 0 for vanilla order.
            pool: i64[1], 1 where the slots of a group are one pool.
            max_experts: i64[1], experts that a group may use.

        Returns:
            logits[N, classes], members[N, M, classes] or features[N, size], then `layer_outputs` of each MoE layer.

        Raises:
            RoutingError: a setting is not in the CPU's memory.
        """
        x = self._embed(image)
        members = self.config.ensemble_size
        routes: list[Tensor] = []
        capacities = iter(() if capacity is None else torch.split(capacity, 1))
        for i in range(self.config.num_layers):
            block = f"Encoder.encoderblock_{i}"
            x = self._attention_block(f"{block}.LayerNorm_0", f"{block}.SelfAttention", x)
            moe = self.config.moe
            if moe and i in moe.layers:
                layer = moe.layers.index(i)
                if layer == 0 and members > 1:  # what comes before is the same for all of them
                    x = x[:, None].expand(-1, members, -1, -1).flatten(0, 1)
                x, *route = self._moe_block(block, moe, x, (next(capacities, None), k, bpr, pool, max_experts))
                routes += route
            else:
                x = self._mlp_block(f"{block}.LayerNorm_1", f"{block}.Mlp", x)
        if self.config.classifier in ("token", "0"):  # the norm of one token doesn't look at the others
            x = x[:, 0]
        return (self._head(self._layer_norm("Encoder.encoder_norm", x)), *routes)

    def _add_parameter(self, name: str, shape: tuple[int, ...]) -> None:
        *parents, leaf = name.split("/")
        node: nn.Module = self
        for parent in parents:
            if parent not in node._modules:
                node.add_module(parent, _Parameters())
            node = node.get_submodule(parent)
        # Parameters come from the weights file; until then they take no memory.
        node.register_parameter(leaf, nn.Parameter(torch.empty(shape, device="meta"), requires_grad=False))

    def _p(self, path: str) -> Tensor:
        return self.get_parameter(path)

    def _norm(self, path: str) -> tuple[Tensor, Tensor]:
        return self._p(f"{path}.scale"), self._p(f"{path}.bias")

    def _layer(self, path: str) -> tuple[Tensor, Tensor]:
        """Kernel and bias of a dense layer."""
        return self._p(f"{path}.kernel"), self._p(f"{path}.bias")

    def _dense(self, path: str, x: Tensor) -> Tensor:
        kernel, bias = self._layer(path)
        return x @ kernel + bias

    def _layer_norm(self, path: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], *self._norm(path), LAYER_NORM_EPSILON)

    def _embed(self, image: Tensor) -> Tensor:
        config = self.config
        (rows, columns), (height, width) = config.grid, config.patch_size
        if self.uint8_input:
            image = image.to(torch.float32) / 255.0 * 2.0 - 1.0
        if (rows * height, columns * width) != config.image_size:
            image = image[:, : rows * height, : columns * width]
        # A convolution whose kernel is its stride is one product of flattened patches.
        patches = image.reshape(-1, rows, height, columns, width, config.channels).permute(0, 1, 3, 2, 4, 5)
        x = self._dense("embedding", patches.reshape(-1, rows * columns, height * width * config.channels))
        if config.classifier == "token":
            x = torch.cat([self._p("cls").expand(x.shape[0], -1, -1), x], dim=1)
        if config.position_emb != "none":
            x = x + self._p(POSITION_EMBEDDING.replace("/", "."))
        return x

    def _attention_block(self, norm: str, path: str, x: Tensor) -> Tensor:
        """Self-attention with its layer norm and residual; x[N,T,D]."""
        normed = self._layer_norm(norm, x)
        return x + self._attention(path, normed, normed)

    def _attention(self, path: str, queries: Tensor, keys: Tensor) -> Tensor:
        """Multi-head attention of queries[N,Q,D] over keys[N,T,D]."""
        heads = self.config.num_heads
        size = self.config.hidden_size // heads

        def project(name: str, x: Tensor) -> Tensor:
            projected = self._dense(f"{path}.{name}", x)
            if self.config.attention_qk_norm and name != "value":
                scale = self._p(f"{path}.{name}_ln.scale")
                by_head = projected.reshape(-1, x.shape[1], heads, size)
                projected = F.layer_norm(by_head, (size,), scale, None, LAYER_NORM_EPSILON).reshape(projected.shape)
            return projected

        query, key, value = project("query", queries), project("key", keys), project("value", keys)
        return self._dense(f"{path}.out", torch_ops.attention(query, key, value, heads))

    def _mlp(self, path: str) -> tuple[Tensor, ...]:
        """Weights and biases of an MLP."""
        return (*self._layer(f"{path}.Dense_0"), *self._layer(f"{path}.Dense_1"))

    def _mlp_block(self, norm: str, path: str, x: Tensor) -> Tensor:
        """An MLP with its layer norm and residual; x[N,T,D]."""
        return x + torch_ops.mlp(self._layer_norm(norm, x), *self._mlp(path))

    def _moe_block(self, block: str, moe: MoeConfig, x: Tensor, settings: Sequence[Any]) -> tuple[Tensor, ...]:
        """A MoE layer with its layer norm and residual; returns x[N,T,D] and its `layer_outputs`."""
        # In a group the members of a token stand one after another, and those of an image everywhere else.
        members, rows, tokens = self.config.ensemble_size, x.shape[0], x.shape[1]
        images = rows // members
        if members > 1:
            x = x.reshape(images, members, tokens, -1).transpose(1, 2).reshape(images, tokens * members, -1)
        groups = x.reshape(rows * tokens // self.group_tokens, self.group_tokens, -1)
        routed = {"top-k": self._top_k, "experts-choice": self._experts_choice, "soft": self._soft}[moe.routing.kind]
        y, *routes = routed(block, moe, groups, settings)
        y = y.reshape(images, tokens * members, -1)
        if members > 1:
            y = y.reshape(images, tokens, members, -1).transpose(1, 2).reshape(rows, tokens, -1)
        return y, *routes

    def _top_k(self, block: str, moe: MoeConfig, x: Tensor, settings: Sequence[Any]) -> tuple[Tensor, ...]:
        """Top-K routing, dispatch, experts and combine for groups x[G,S,D], with layer norm and residual."""
        members, router = self.config.ensemble_size, self._p(f"{block}.Moe.Router.dense.kernel")
        normed = self._layer_norm(f"{block}.LayerNorm_1", x)
        gates = self._member_gates(normed, router, members) if members > 1 else torch_ops.gates(normed, router)
        slot, weight, src, expert = torch_ops.route(gates, *settings)
        return x + self._experts(block, moe, normed, slot, weight, src), expert, slot >= 0, weight

    def _experts_choice(self, block: str, moe: MoeConfig, x: Tensor, settings: Sequence[Any]) -> tuple[Tensor, ...]:
        """The same with experts that choose their tokens: each expert is a choice of each token, with its gate as weight."""
        normed = self._layer_norm(f"{block}.LayerNorm_1", x)
        gates = torch_ops.gates(normed, self._p(f"{block}.Moe.Router.dense.kernel"))
        slot, src = torch_ops.choose_tokens(gates, settings[0])
        return x + self._experts(block, moe, normed, slot, gates, src), slot >= 0, gates

    def _experts(self, block: str, moe: MoeConfig, x: Tensor, slot: Tensor, weight: Tensor, src: Tensor) -> Tensor:
        """Dispatch, experts and combine of x[G,S,D]."""
        out = torch_ops.expert_mlp(
            torch_ops.dispatch(x, src), *self._mlp(f"{block}.Moe.Mlp"), dispatch_bf16=moe.dispatch_bf16
        )
        return torch_ops.combine(out, slot, weight)

    def _soft(self, block: str, moe: MoeConfig, x: Tensor, settings: Sequence[Any]) -> tuple[Tensor, ...]:
        """The same with experts that work on mixtures of tokens (Soft MoE), which has nothing to set."""
        normed = self._layer_norm(f"{block}.LayerNorm_1", x)
        router, bf16 = f"{block}.Moe.Router", moe.dispatch_bf16
        dispatch, combine = torch_ops.soft_router(normed, self._p(f"{router}.mu"), self._p(f"{router}.scale"))
        # It is tokens and what the experts make that are rounded, not their mixtures.
        out = torch_ops.expert_mlp(torch_ops.soft_dispatch(normed, dispatch, bf16), *self._mlp(f"{block}.Moe.Mlp"))
        return x + torch_ops.soft_combine(out, combine, bf16), dispatch, combine

    def _member_gates(self, x: Tensor, router: Tensor, members: int) -> Tensor:
        """Gates[G,S,E] of x[G,S,D], members of a token one after another: each member's are 0 but for its own experts."""
        (groups, tokens, _), experts = x.shape, router.shape[1]
        owner = torch.arange(experts, device=x.device) // (experts // members)
        is_own = owner == torch.arange(members, device=x.device)[:, None]
        by_member = (x @ router).reshape(groups, tokens // members, members, experts)
        gates = torch.softmax(torch.where(is_own, by_member, -torch.inf), dim=-1)
        return gates.reshape(groups, tokens, experts)

    def _head(self, x: Tensor) -> Tensor:
        if self.config.classifier == "gap":
            # A mean as a product: runtimes add up a plain one in another order where there is but one image.
            tokens = x.shape[1]
            x = (torch.full((1, 1, tokens), 1 / tokens, device=x.device) @ x)[:, 0]
        elif self.config.classifier == "map":
            x = self._map_head(x)
        if self.config.representation_size:
            x = torch.tanh(self._dense("pre_logits", x))
        if self.output == "features":
            return x
        logits: Tensor = self._dense("head", x)
        members = self.config.ensemble_size
        if members == 1:
            return logits
        by_member = logits.reshape(-1, members, logits.shape[-1])
        if self.output == "members":
            return by_member
        return torch.logsumexp(torch.log_softmax(by_member, dim=-1), dim=1) - math.log(members)

    def _map_head(self, x: Tensor) -> Tensor:
        probe = self._p("MapHead.probe").expand(x.shape[0], -1, -1)
        y = self._attention("MapHead.MultiHeadDotProductAttention", probe, x)
        y = y + torch_ops.mlp(self._layer_norm("MapHead.LayerNorm", y), *self._mlp("MapHead.Mlp"))
        first: Tensor = y[:, 0]
        return first
