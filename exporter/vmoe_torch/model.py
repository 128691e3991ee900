"""The V-MoE as a torch module.

Modules and parameters have the names and shapes of the official tree (vmoe/nn/vit_moe.py). A parameter's path, with `/`
instead of `.`, is its name in the checkpoint.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmoe_export.model.model_config import ModelConfig, MoeConfig
from vmoe_export.model.parameters import POSITION_EMBEDDING, stored_parameters
from vmoe_export.model.position_embedding import sincos2d_position_embedding
from vmoe_export.ops.table import LAYER_NORM_EPSILON, Activation
from vmoe_runtime.bundle.manifest import Output
from vmoe_runtime.errors import ImageError
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing_rules import RoutingRules
from vmoe_torch import ops, routing
from vmoe_torch.merging import Merged
from vmoe_torch.merging import merge as merge_tokens

LayerRouting = dict[str, Tensor]


class _Parameters(nn.Module):
    """A node of the parameter tree. Its children and parameters are added by name."""


class Vmoe(nn.Module):
    """A V-MoE or dense ViT, as returned by `load_model`.

    Dropped tokens skip an MoE layer through its residual connection. Gates and weights of kept tokens carry gradients.
    Parameters take no memory until they are loaded.

    Attributes:
        config: the description of the model.
        group_tokens: S, tokens per routing group. The number of tokens of every batch must be a multiple of S.
        output: "logits", or "features" for the input of the head. For an ensemble (E3), "logits" are the official
            prediction, which is the logarithm of the members' mean probability, and "members" are each member's logits.
        rules: the rules that turn settings into profiles. For a dense ViT, they are `RoutingRules("dense")`.
        profile: the profile for calls that pass none. You may replace it with a result of `setting`.
        noise_std: in training, noise with standard deviation noise_std / E is added to the router logits. 0 means no
            noise.
    """

    def __init__(
        self,
        config: ModelConfig,
        group_tokens: int,
        *,
        output: Output = "logits",
        rules: RoutingRules | None = None,
        profile: Profile | None = None,
        noise_std: float = 0.0,
    ) -> None:
        super().__init__()
        self.config = config
        self.group_tokens = group_tokens
        self.output = output
        self.rules = rules or RoutingRules("dense")
        self.profile = profile
        self.noise_std = noise_std
        for name, shape in stored_parameters(config, features=output == "features").items():
            self._add_parameter(name, shape)

    def setting(self, profile: Profile | str | None = None, **fields: Any) -> Profile | None:
        """Return the profile that a call with these arguments uses, or None for a model without routing and merging.

        Args:
            profile: a profile, or a systematic name such as `c0.3-k1`. Default: the model's `profile`.
            fields: fields of `vmoe_runtime.Setting` that differ from the profile.

        Raises:
            RoutingError: the model can't be run with this setting.
        """
        base = self.rules.named(profile) if isinstance(profile, str) else profile or self.profile
        return self.rules.profile(base, **fields) if fields else base

    def forward(self, images: Tensor, profile: Profile | str | None = None, **fields: Any) -> Tensor:
        """Run the model on images. The other arguments are those of `setting`.

        The images are float32[N,H,W,C] in [-1, 1]. Images of another float type are converted to the type of the
        parameters.

        Returns:
            logits[N, classes], members[N, M, classes] or features[N, size], depending on `output`.

        Raises:
            ImageError: there are no images, or their size or type is wrong.
            ImageError: the images can't be divided into whole routing groups.
            RoutingError: the model can't be run with this setting.
        """
        return self.logits_and_routing(images, profile, **fields)[0]

    def logits_and_routing(
        self, images: Tensor, profile: Profile | str | None = None, **fields: Any
    ) -> tuple[Tensor, dict[str, LayerRouting]]:
        """Run the model like `forward`, and also return the routing of each MoE layer.

        Returns:
            The output, and a mapping from block names, such as `encoderblock_1`, to one dictionary per MoE layer. The
            dictionary has the entries that `Engine.routing` returns, and router logits:

            - Top-k: `expert` i32[G,S,K], `kept` bool[G,S,K] and `weight` [G,S,K].
            - Expert choice: `kept` and `weight` [G,S,E].
            - Soft MoE: `dispatch` and `combine` [G,S,E,P].
            - Any kind, if tokens were merged: `token` [N,T].
            - Top-k and expert choice: `router_logits` float32[G,S,E], or [G,M,S/M,E/M] for an E3.
            - Top-k and expert choice: `noisy_router_logits`. They equal `router_logits` if no noise was added.
        """
        setting = self.setting(profile, **fields)
        self._check(images)
        x = self._embed(images)
        moe, members = self.config.moe, self.config.ensemble_size
        routes: dict[str, LayerRouting] = {}
        merge = (setting.merge or 0) if setting else 0
        merged = Merged.nothing(x) if merge else None
        for i in range(self.config.num_layers):
            block = f"Encoder.encoderblock_{i}"
            x, merged = self._attention_block(f"{block}.LayerNorm_0", f"{block}.SelfAttention", x, merged, merge)
            if moe and i in moe.layers:
                layer = moe.layers.index(i)
                if layer == 0 and members > 1:  # all members share everything before this layer
                    x = x[:, None].expand(-1, members, -1, -1).flatten(0, 1)
                x, routes[f"encoderblock_{i}"] = self._moe_block(block, moe, x, setting, layer, merged)
                if merged:
                    routes[f"encoderblock_{i}"]["token"] = merged.token
            else:
                x = x + ops.mlp(self._layer_norm(f"{block}.LayerNorm_1", x), *self._mlp(f"{block}.Mlp"))
        if self.config.classifier in ("token", "0"):  # each token is normalized separately, so one token is enough
            x = x[:, 0]
        return self._head(self._layer_norm("Encoder.encoder_norm", x), merged.sizes if merged else None), routes

    def _check(self, images: Tensor) -> None:
        config = self.config
        shape = (*config.image_size, config.channels)
        if images.dim() != 4 or images.shape[1:] != shape or not images.is_floating_point():
            is_ = f"{str(images.dtype).removeprefix('torch.')}{list(images.shape)}"
            raise ImageError(f"images must be float32[N, {', '.join(map(str, shape))}] in [-1, 1], not {is_}")
        if not len(images):
            raise ImageError("there are no images: the batch is empty")
        tokens = config.num_tokens * config.ensemble_size
        if config.moe and len(images) * tokens % self.group_tokens:
            multiple = self.group_tokens // math.gcd(self.group_tokens, tokens)
            raise ImageError(f"{len(images)} images can't be cut into routing groups, which need a multiple of {multiple}")

    def _add_parameter(self, name: str, shape: tuple[int, ...]) -> None:
        *parents, leaf = name.split("/")
        node: nn.Module = self
        for parent in parents:
            if parent not in node._modules:
                node.add_module(parent, _Parameters())
            node = node.get_submodule(parent)
        if name == POSITION_EMBEDDING and self.config.position_emb == "sincos2d":  # computed, not a parameter
            config, token = self.config, self.config.classifier == "token"
            embedding = sincos2d_position_embedding(config.grid, config.hidden_size, config.position_temperature, token)
            node.register_buffer(leaf, torch.from_numpy(embedding), persistent=False)
            return
        if name.endswith("/Moe/Router/dense/kernel") and (members := self.config.ensemble_size) > 1:
            # Give an E3's router an axis for the members, so that a saved E3 is not mistaken for a plain V-MoE.
            shape = (shape[0], members, shape[1] // members)
        node.register_parameter(leaf, nn.Parameter(torch.empty(shape, device="meta")))

    def _p(self, path: str) -> Tensor:
        parent, _, leaf = path.rpartition(".")
        parameter: Tensor = getattr(self.get_submodule(parent), leaf)
        return parameter

    def _layer(self, path: str) -> tuple[Tensor, Tensor]:
        """Return the kernel and the bias of a dense layer."""
        return self._p(f"{path}.kernel"), self._p(f"{path}.bias")

    def _dense(self, path: str, x: Tensor) -> Tensor:
        # Kernels and biases of attention have an extra axis for the heads. The patch kernel has two extra axes for the
        # pixels.
        kernel, bias = self._layer(path)
        return x @ kernel.reshape(x.shape[-1], -1) + bias.flatten()

    def _layer_norm(self, path: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self._p(f"{path}.scale"), self._p(f"{path}.bias"), LAYER_NORM_EPSILON)

    def _embed(self, image: Tensor) -> Tensor:
        config, image = self.config, image.to(self._p("embedding.kernel").dtype)
        (rows, columns), (height, width) = config.grid, config.patch_size
        if (rows * height, columns * width) != config.image_size:
            image = image[:, : rows * height, : columns * width]
        # A convolution whose stride equals its kernel size is a single matrix product of flattened patches.
        patches = image.reshape(-1, rows, height, columns, width, config.channels).permute(0, 1, 3, 2, 4, 5)
        x = self._dense("embedding", patches.reshape(-1, rows * columns, height * width * config.channels))
        if config.classifier == "token":
            x = torch.cat([self._p("cls").expand(x.shape[0], -1, -1), x], dim=1)
        if config.position_emb != "none":
            x = x + self._p(POSITION_EMBEDDING.replace("/", "."))
        return x

    def _attention_block(
        self, norm: str, path: str, x: Tensor, merged: Merged | None, merge: int
    ) -> tuple[Tensor, Merged | None]:
        """Run self-attention with its layer norm and residual on x[N,T,D], then merge up to `merge` tokens."""
        normed, heads = self._layer_norm(norm, x), self.config.num_heads
        added, keys = self._attention(path, normed, normed, merged.sizes if merged else None)
        if merged is None:
            return x + added, None
        with ops.full_precision(x):
            return merge_tokens(x + added, keys, merged, merge, heads, self.config.prefix_tokens)

    def _attention(self, path: str, queries: Tensor, keys: Tensor, sizes: Tensor | None) -> tuple[Tensor, Tensor]:
        """Run multi-head attention of queries[N,Q,D] over keys[N,T,D].

        sizes[N,T] holds the number of original tokens in each key. None means that each key is one token.

        Returns:
            The output, and the projected keys.
        """
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
        return self._dense(f"{path}.out", ops.attention(query, key, value, heads, sizes)), key

    def _mlp(self, path: str) -> tuple[Tensor, Tensor, Tensor, Tensor, Activation]:
        """Return weights, biases and activation of an MLP."""
        return *self._layer(f"{path}.Dense_0"), *self._layer(f"{path}.Dense_1"), self.config.activation

    def _moe_block(
        self, block: str, moe: MoeConfig, x: Tensor, setting: Profile | None, layer: int, merged: Merged | None = None
    ) -> tuple[Tensor, LayerRouting]:
        """Run MoE layer number `layer` of the model, with its layer norm and residual, on x[N,T,D]."""
        # Within a group, the members' copies of a token are adjacent. Elsewhere, the members' copies of a whole image are
        # adjacent.
        members, rows, tokens = self.config.ensemble_size, x.shape[0], x.shape[1]
        images = rows // members
        if members > 1:
            x = x.reshape(images, members, tokens, -1).transpose(1, 2).reshape(images, tokens * members, -1)
        # Merging shortens a group by the same factor as each of its images.
        group_tokens = self.group_tokens // self.config.num_tokens * tokens if merged else self.group_tokens
        groups = x.reshape(rows * tokens // group_tokens, group_tokens, -1)
        normed = self._layer_norm(f"{block}.LayerNorm_1", groups)
        if moe.routing.kind == "soft":
            y, routes = self._soft(block, moe, normed)
        else:
            assert setting is not None
            y, routes = self._sparse(block, moe, normed, setting, setting.slots[layer])
        y = (groups + y).reshape(images, tokens * members, -1)
        if members > 1:
            y = y.reshape(images, tokens, members, -1).transpose(1, 2).reshape(rows, tokens, -1)
        return y, routes

    def _sparse(self, block: str, moe: MoeConfig, x: Tensor, setting: Profile, slots: int) -> tuple[Tensor, LayerRouting]:
        """Run routing, dispatch, experts and combine on groups x[G,S,D], for top-k and expert choice."""
        clean = noisy = ops.router_logits(x, self._p(f"{block}.Moe.Router.dense.kernel"))
        if self.training and self.noise_std:
            noisy = clean + torch.randn_like(clean) * (self.noise_std / clean.shape[-1])
        gates = ops.gates(noisy)
        routes = {"router_logits": clean, "noisy_router_logits": noisy}
        if moe.routing.kind == "experts-choice":  # K = E: each token may go to every expert, with its gate as weight
            weight, (slot, src) = gates, routing.choose_tokens(gates, slots)
        else:
            slot, weight, src, routes["expert"] = routing.route(gates, slots, **setting.route_arguments)
        out = ops.expert_mlp(ops.dispatch(x, src), *self._mlp(f"{block}.Moe.Mlp"), dispatch_bf16=moe.dispatch_bf16)
        return ops.combine(out, slot, weight), {**routes, "kept": slot >= 0, "weight": weight}

    def _soft(self, block: str, moe: MoeConfig, x: Tensor) -> tuple[Tensor, LayerRouting]:
        """Run a Soft MoE on groups x[G,S,D]. A Soft MoE has no settings."""
        router, bf16 = f"{block}.Moe.Router", moe.dispatch_bf16
        dispatch, combine = ops.soft_router(x, self._p(f"{router}.mu"), self._p(f"{router}.scale"))
        # With bf16, round the tokens and the experts' outputs, but not the mixtures of tokens or of outputs.
        out = ops.expert_mlp(ops.soft_dispatch(x, dispatch, bf16), *self._mlp(f"{block}.Moe.Mlp"))
        return ops.soft_combine(out, combine, bf16), {"dispatch": dispatch, "combine": combine}

    def _head(self, x: Tensor, sizes: Tensor | None) -> Tensor:
        if self.config.classifier == "gap":
            # Compute the mean as a matrix product, because runtimes add up a plain mean in another order if the batch is a
            # single image.
            tokens = self.config.num_tokens
            shares = x.new_full((1, 1, tokens), 1 / tokens) if sizes is None else (sizes[:, None] / tokens).to(x.dtype)
            x = (shares @ x)[:, 0]
        elif self.config.classifier == "map":
            x = self._map_head(x, sizes)
        if self.config.representation_size:
            x = torch.tanh(self._dense("pre_logits", x))
        if self.config.normalize:
            x = torch.nn.functional.normalize(x, dim=-1)
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

    def _map_head(self, x: Tensor, sizes: Tensor | None) -> Tensor:
        probe = self._p("MapHead.probe").expand(x.shape[0], -1, -1)
        y, _ = self._attention("MapHead.MultiHeadDotProductAttention", probe, x, sizes)
        y = y + ops.mlp(self._layer_norm("MapHead.LayerNorm", y), *self._mlp("MapHead.Mlp"))
        first: Tensor = y[:, 0]
        return first
