"""The reference for every graph of an export. It is the model in numpy and runs one part at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from vmoe_export.export_cost import ROWS_AT_ONCE
from vmoe_export.model.exported_model import ExportedModel
from vmoe_export.model.model_config import MoeConfig
from vmoe_export.model.parameters import POSITION_EMBEDDING, ROTARY, front_parameters, scale_name
from vmoe_export.ops.table import LAYER_NORM_EPSILON
from vmoe_export.precision import hidden_chunk
from vmoe_export.validation import reference_ops as ops
from vmoe_export.validation.reference_weights import Weights
from vmoe_export.weight_types import weight_type_of
from vmoe_export.weight_types.bfloat16 import round_bf16
from vmoe_runtime.profiles import Profile

Array = np.ndarray[Any, np.dtype[Any]]
Routes = tuple[Array, ...]
"""The `layer_outputs` of one MoE layer."""


@dataclass(frozen=True)
class Stream:
    """The values passed from one part of a model to the next.

    Attributes:
        x: the residual stream f32[images, T, D]. Before the first part, x holds the images in the form that the model
            takes. After the last part, x is the model's output. From the first MoE layer of an ensemble (E3) on, each
            image has one row per member, and these rows are adjacent.
        sizes: f32[images, T], the number of original tokens that were averaged into each token. It is None if the model
            can't merge tokens.
        token: i32[images, T0], the position of each original token. It is None if the model can't merge tokens.
        coordinates: f32[images, T, 2], the rotary positions. It is None if the model can't merge tokens.
        keys: f32[images, T, D], the keys that determine which tokens merge. It is None except directly after an
            attention.
    """

    x: Array
    sizes: Array | None = None
    token: Array | None = None
    coordinates: Array | None = None
    keys: Array | None = None

    def of_images(self, chosen: slice) -> Stream:
        """Return the part of the stream that belongs to the images `chosen`."""
        fields = {name: values[chosen] for name, values in vars(self).items() if values is not None}
        return Stream(**fields)

    @classmethod
    def joined(cls, streams: Sequence[Stream]) -> Stream:
        """Concatenate streams along the images."""
        fields = {name: [getattr(stream, name) for stream in streams] for name in vars(streams[0])}
        return cls(**{name: np.concatenate(values) for name, values in fields.items() if values[0] is not None})

    def merged(self, token: Array) -> Stream:
        """Merge the tokens of this stream in the same way as the tokens of another stream were merged.

        `token` i32[images, T0] gives the positions of the original tokens in the other stream.
        """
        assert self.sizes is not None
        places, coordinates = self.places(token), self.coordinates
        if coordinates is not None:
            coordinates, _ = ops.merge_tokens(coordinates, self.sizes, places)
        return Stream(*ops.merge_tokens(self.x, self.sizes, places), token, coordinates)

    def places(self, token: Array) -> Array:
        """Return the new position of each token of this stream, i32[images, T].

        `token` i32[images, T0] gives the new positions of the original tokens.
        """
        assert self.sizes is not None and self.token is not None
        places = np.zeros(self.sizes.shape, np.int32)
        np.put_along_axis(places, self.token, token, axis=1)
        return places


class ReferenceModel:
    """A model with its weights, computed in float32. The dtype of a weight determines how its products are rounded.

    A batch may contain a copy of each image for every profile. A part then reads its weights only once for all
    profiles.

    Args:
        model: the model to compute.
        weights: the source of the model's tensors.
    """

    def __init__(self, model: ExportedModel, weights: Weights) -> None:
        self.model = model
        self._config = model.config
        self._source = weights
        self._read: dict[str, Array | None] = {}

    def run(self, part: str, stream: Stream, profiles: Sequence[Profile | None]) -> tuple[Stream, list[Routes]]:
        """Run one of `model.parts`.

        Args:
            part: the part's name.
            stream: the output of the previous part. For the first part, it holds the images. It has one token per image if
                the previous part is one of `model.class_token_parts`.
            profiles: for a MoE layer, the profiles at which to route. Each profile routes an equal share of the images, in
                order.

        Returns:
            Two values:

            - the part's output, which is the model's output or a stream that `merge` turns into the input of the next part,
            - the routes of a MoE layer at each of `profiles`, or an empty list for any other part.
        """
        place, _, what = part.rpartition("/")
        block, x = f"Encoder/{place}", stream.x
        is_class_token = part in self.model.class_token_parts
        self._read.clear()
        try:
            if what == "Moe":
                y, routes = self._moe_layer(block, x, profiles)
                if stream.token is not None:
                    tokens = np.split(stream.token, len(profiles))
                    routes = [(*each, token) for each, token in zip(routes, tokens, strict=True)]
                return replace(stream, x=y[:, :1] if is_class_token else y), routes
            compute = {"embedding": self._embed, "head": self._head, "SelfAttention": self._self_attention}
            rows = range(0, len(x), ROWS_AT_ONCE * self._config.ensemble_size)
            step = partial(compute.get(what, self._mlp_layer), block)
            whole = Stream.joined([step(stream.of_images(slice(start, start + rows.step))) for start in rows])
            return replace(whole, x=whole.x[:, :1], keys=None) if is_class_token else whole, []
        finally:
            self._read.clear()  # keep only one part of the model in memory

    def merge(self, stream: Stream, profile: Profile | None) -> Stream:
        """Merge the tokens of a part's output, if the part is an attention and the profile merges tokens."""
        keys, token = stream.keys, stream.token
        if keys is None or token is None or not profile or not profile.merge:
            return replace(stream, keys=None)
        places = ops.merged_places(keys, profile.merge, self._config.num_heads, self._config.prefix_tokens)
        return stream.merged(np.take_along_axis(places, token, axis=1))

    def _self_attention(self, block: str, stream: Stream) -> Stream:
        x = stream.x
        normed = self._norm(f"{block}/LayerNorm_0", x)
        sizes = stream.sizes if stream.sizes is not None and stream.sizes.max() > 1 else None
        coordinates = stream.coordinates
        if self._config.rotary and coordinates is None:
            coordinates = self._tensor(ROTARY[0])
        added, keys = self._attention(f"{block}/SelfAttention", normed, normed, sizes, coordinates)
        return replace(stream, x=x + added, keys=keys if self.model.merges else None)

    def _mlp_layer(self, block: str, stream: Stream) -> Stream:
        x = stream.x
        return replace(stream, x=x + self._mlp(f"{block}/Mlp", self._norm(f"{block}/LayerNorm_1", x)))

    def _weights(self, name: str) -> Array | None:
        if name not in self._read:
            self._read[name] = self._source(name)
        return self._read[name]

    def _tensor(self, name: str) -> Array:
        array = self._weights(name)
        assert array is not None, name
        return array

    def _norm(self, path: str, x: Array, epsilon: float = LAYER_NORM_EPSILON) -> Array:
        scale, bias = self._tensor(f"{path}/scale"), self._weights(f"{path}/bias")
        return ops.rms_norm(x, scale) if bias is None else ops.layer_norm(x, scale, bias, epsilon)

    def _dense(self, path: str, x: Array) -> Array:
        kernel = f"{path}/kernel"
        return ops.linear(x, self._tensor(kernel), self._tensor(f"{path}/bias"), self._weights(scale_name(kernel)))

    def _mlp(self, path: str, x: Array) -> Array:
        if self._config.gated_mlp:
            gate = ops.mlp_hidden(x, *self._mlp_weights(f"{path}/Gate", ...), self._config.activation)
            hidden = gate * self._dense(f"{path}/Dense_0", x)
        else:
            hidden = self._mlp_hidden(path, x)
        if self._config.mlp_norm:
            hidden = self._norm(f"{path}/LayerNorm", hidden)
        return self._mlp_output(path, hidden)

    def _mlp_hidden(self, path: str, x: Array, expert: Any = ...) -> Array:
        """Return the hidden features of an MLP, or of one expert."""
        return ops.mlp_hidden(x, *self._mlp_weights(f"{path}/Dense_0", expert), self._config.activation)

    def _mlp_output(self, path: str, hidden: Array, expert: Any = ...) -> Array:
        kernel, bias, scale = self._mlp_weights(f"{path}/Dense_1", expert)
        chunk = hidden_chunk(hidden.shape[-1], weight_type_of(kernel.dtype))
        return ops.mlp_output(hidden, kernel, bias, scale, chunk)

    def _mlp_weights(self, path: str, expert: Any) -> tuple[Array, Array, Array | None]:
        kernel = f"{path}/kernel"
        scale = self._weights(scale_name(kernel))
        return self._tensor(kernel)[expert], self._tensor(f"{path}/bias")[expert], None if scale is None else scale[expert]

    def _embed(self, _: str, images: Stream) -> Stream:
        config, image = self._config, images.x
        (rows, columns), (height, width) = config.grid, config.patch_size
        if image.dtype == np.uint8:
            image = image.astype(np.float32) / np.float32(255) * np.float32(2) - np.float32(1)
        image = image[:, : rows * height, : columns * width]
        patches = image.reshape(-1, rows, height, columns, width, config.channels).transpose(0, 1, 3, 2, 4, 5)
        x = self._dense("embedding", patches.reshape(-1, rows * columns, height * width * config.channels))
        x = self._norm("patch_norm", x) if config.patch_norm else x
        front = [np.repeat(self._tensor(name), len(x), axis=0) for name in front_parameters(config)]
        x = np.concatenate([*front, x], axis=1)
        x = x if config.position_emb == "none" else x + self._tensor(POSITION_EMBEDDING)
        x = self._norm("embedding_norm", x) if config.embedding_norm else x
        if not self.model.merges:
            return Stream(x)
        token = np.tile(np.arange(x.shape[1], dtype=np.int32), (len(x), 1))
        coordinates = np.tile(self._tensor(ROTARY[0]), (len(x), 1, 1)) if config.rotary else None
        return Stream(x, np.ones(x.shape[:2], np.float32), token, coordinates)

    def _attention(
        self, path: str, queries: Array, keys: Array, sizes: Array | None, coordinates: Array | None = None
    ) -> tuple[Array, Array]:
        """Compute multi-head attention of queries[N,Q,D] over keys[N,T,D].

        Args:
            path: the path of the attention's parameters in the official tree.
            queries, keys: the tokens, before their projections.
            sizes: f32[N,T], the number of original tokens in each key. None stands for a size of 1 for each key.
            coordinates: f32[N,T,2], rotary positions. If it is None, nothing is rotated.

        Returns:
            The output [N,Q,D], and the projected keys.
        """
        config = self._config
        is_pool, heads = path.startswith("MapHead"), config.heads_of(path)

        def project(name: str, x: Array) -> Array:
            if name == "query" and is_pool and config.bare_map_head:
                return x
            projected = self._dense(f"{path}/{name}", x)
            if not config.has_qk_norm(path) or name == "value":
                return projected
            scale = self._tensor(f"{path}/{name}_ln/scale")
            if config.wide_qk_norm:
                return ops.rms_norm(projected, scale)
            by_head = projected.reshape(*x.shape[:2], heads, -1)
            bias = self._tensor(f"{path}/{name}_ln/bias") if config.qk_norm_bias else 0.0
            return ops.layer_norm(by_head, scale, bias).reshape(projected.shape)

        bf16 = self._tensor(f"{path}/key/kernel").dtype != np.float32
        q, k, v = project("query", queries), project("key", keys), project("value", keys)
        if coordinates is not None:
            q, k = (ops.rotate(each, coordinates, self._tensor(ROTARY[1]), heads) for each in (q, k))
        mixed = ops.attention(q, k, v, sizes, heads, bf16)
        if config.attention_norm and not is_pool:
            mixed = self._norm(f"{path}/LayerNorm", mixed)
        return self._dense(f"{path}/out", mixed), k

    def _moe_layer(self, block: str, x: Array, profiles: Sequence[Profile | None]) -> tuple[Array, list[Routes]]:
        moe, members, tokens = self._config.moe, self._config.ensemble_size, x.shape[1]
        assert moe is not None
        layer = moe.layers.index(int(block.rpartition("_")[2]))
        if layer == 0:  # before the first MoE layer, all members of an image share one row
            x = np.repeat(x, members, axis=0)
        images = len(x) // members
        # Within a group, each token has one row per member, and these rows are adjacent.
        by_token = x.reshape(images, members, tokens, -1).swapaxes(1, 2)
        # Merging shrinks a group by the same factor as each of its images.
        groups = by_token.reshape(-1, self.model.grouping.tokens * tokens // self._config.num_tokens, x.shape[-1])
        normed = self._norm(f"{block}/LayerNorm_1", groups)
        route = {"top-k": self._top_k, "experts-choice": self._experts_choice, "soft": self._soft}[moe.routing.kind]
        added, routes = route(block, moe, layer, normed, profiles)
        y = groups + added
        return y.reshape(images, tokens, members, -1).swapaxes(1, 2).reshape(x.shape), routes

    def _top_k(self, block: str, moe: MoeConfig, layer: int, x: Array, profiles: Any) -> tuple[Array, list[Routes]]:
        scores = x @ self._tensor(f"{block}/Moe/Router/dense/kernel")
        members = self._config.ensemble_size
        if members > 1:  # each member routes only to its own experts
            experts = scores.shape[-1]
            owner = np.arange(experts) // (experts // members)
            member = np.arange(x.shape[1]) % members
            scores = np.where(owner == member[:, None], scores, np.float32(-np.inf))
        gates = ops.softmax(scores)
        routes: list[Routes] = []
        shares = np.zeros(gates.shape, np.float32)
        for own, part, profile in zip(
            np.split(shares, len(profiles)), np.split(gates, len(profiles)), profiles, strict=True
        ):
            expert, kept, weight = ops.top_k(part, profile.slots[layer], **profile.route_arguments)
            if self._config.normalizes_weights:
                weight = weight / weight.sum(axis=-1, keepdims=True)
            np.put_along_axis(own, expert, np.where(kept, weight, 0), axis=-1)
            routes.append((expert, kept, weight))
        return self._experts(block, moe, x, shares, shares != 0), routes

    def _experts_choice(self, block: str, moe: MoeConfig, layer: int, x: Array, profiles: Any) -> tuple[Array, list[Routes]]:
        gates = ops.softmax(x @ self._tensor(f"{block}/Moe/Router/dense/kernel"))
        parts = zip(np.split(gates, len(profiles)), profiles, strict=True)
        routes: list[Routes] = [(ops.chosen_tokens(part, profile.slots[layer]), part) for part, profile in parts]
        kept = np.concatenate([each for each, _ in routes])
        return self._experts(block, moe, x, gates, kept), routes

    def _soft(self, block: str, moe: MoeConfig, layer: int, x: Array, profiles: Any) -> tuple[Array, list[Routes]]:
        router = f"{block}/Moe/Router"
        dispatch, combine = ops.soft_router(x, self._tensor(f"{router}/mu"), self._tensor(f"{router}/scale"))
        mixtures = ops.soft_dispatch(x, dispatch, moe.dispatch_bf16)
        out = np.stack(list(self._by_expert(block, mixtures)))
        return ops.soft_combine(out, combine, moe.dispatch_bf16), [(dispatch, combine)]

    def _experts(self, block: str, moe: MoeConfig, x: Array, shares: Array, kept: Array) -> Array:
        """Return the weighted sum of the experts' outputs for each token.

        Expert e processes the tokens for which kept[G,S,E] is true. The weights of its outputs are shares[G,S,E].
        """
        rows, y = x.reshape(-1, x.shape[-1]), np.zeros_like(x).reshape(-1, x.shape[-1])
        kept, shares = (each.reshape(len(rows), -1) for each in (kept, shares))
        chosen = [np.flatnonzero(kept[:, e]) for e in range(kept.shape[1])]
        taken = (round_bf16(rows[tokens]) if moe.dispatch_bf16 else rows[tokens] for tokens in chosen)
        for e, out in enumerate(self._by_expert(block, taken)):
            y[chosen[e]] += shares[chosen[e], e, None] * (round_bf16(out) if moe.dispatch_bf16 else out)
        return y.reshape(x.shape)

    def _by_expert(self, block: str, rows: Iterable[Array]) -> Iterator[Array]:
        """Yield each expert's output for its rows."""
        path = f"{block}/Moe/Mlp"
        hidden = [self._mlp_hidden(path, taken, e) for e, taken in enumerate(rows)]
        del self._read[f"{path}/Dense_0/kernel"]  # free it now, because the experts' kernels are the largest tensors
        return (self._mlp_output(path, features, e) for e, features in enumerate(hidden))

    def _head(self, _: str, stream: Stream) -> Stream:
        return Stream(self._output(stream.x, stream.sizes))

    def _output(self, x: Array, sizes: Array | None) -> Array:
        config, members = self._config, self._config.ensemble_size
        if self.model.output == "tokens":
            is_normed = config.encoder_norm and not config.norm_after_pooling
            return self._norm("Encoder/encoder_norm", x) if is_normed else x * np.float32(1 / config.stream_scale)
        x = x if config.encoder_norm else x * np.float32(1 / config.stream_scale)
        if config.classifier in ("token", "0"):  # each token is normalized separately, so one token is enough
            x = x[:, 0]
        if config.encoder_norm and not config.norm_after_pooling:
            x = self._norm("Encoder/encoder_norm", x)
        front = 0 if config.map_front else config.front_tokens
        patches = x if x.ndim == 2 else x[:, front:]
        sizes = None if sizes is None else sizes[:, front:]
        if config.classifier == "token+token":
            x = x[:, :2].reshape(len(x), -1)
        elif config.classifier == "token+gap":
            x = np.concatenate([x[:, 0], _mean(patches, sizes)], axis=1)
        elif config.classifier == "gap":
            x = _mean(patches, sizes)
        elif config.classifier == "map":
            x = self._map_head(patches, sizes)
        x = self._norm("Encoder/encoder_norm", x) if config.norm_after_pooling else x
        if config.representation_size:
            x = np.tanh(self._dense("pre_logits", x)) if config.representation_tanh else self._dense("projection", x)
        x = ops.normalized(x) if config.normalize else x
        if self.model.output == "features":
            return x
        logits = self._dense("head", x)
        if members == 1:
            return logits
        by_member = logits.reshape(-1, members, logits.shape[-1])
        if self.model.output == "members":
            return by_member
        shifted = by_member - by_member.max(axis=-1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        top = log_p.max(axis=1)
        total: Array = top + np.log(np.exp(log_p - top[:, None]).sum(axis=1)) - np.float32(math.log(members))
        return total

    def _map_head(self, x: Array, sizes: Array | None) -> Array:
        path = "MapHead"
        probe = np.repeat(self._tensor(f"{path}/probe"), len(x), axis=0)
        y, _ = self._attention(f"{path}/MultiHeadDotProductAttention", probe, x, sizes)
        if not self._config.bare_map_head:
            y = y + self._mlp(f"{path}/Mlp", self._norm(f"{path}/LayerNorm", y, self._config.map_epsilon))
        return y[:, 0]


def _mean(x: Array, sizes: Array | None) -> Array:
    """Return the mean of the tokens in x[N,T,D]. If sizes[N,T] are given, they are the tokens' weights."""
    mean: Array = (
        x.mean(axis=1) if sizes is None else np.average(x, axis=1, weights=np.repeat(sizes[..., None], x.shape[2], 2))
    )
    return mean
