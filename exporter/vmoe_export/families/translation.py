"""Translates the tensors of another library's model to ours: renames, transposes, cuts, joins and scales them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from vmoe_export.checkpoint.base import Array
from vmoe_export.errors import CheckpointError, ConfigError, OptionError
from vmoe_export.families.block_names import Block, Layer
from vmoe_export.families.foreign_model import ForeignModel
from vmoe_export.families.position_grid import resized_grid
from vmoe_export.model.parameters import EXTRA_TOKENS, POSITION_EMBEDDING, ROTARY, Shape
from vmoe_export.model.position_embedding import resize_notes
from vmoe_export.ops.table import LAYER_NORM_EPSILON
from vmoe_runtime.errors import shown

Make = Callable[..., Array]
FIRST_BLOCK = "Encoder/encoderblock_0"
_ACTIVATIONS = {
    "gelu": ("gelu", "gelu_python"),
    "gelu_tanh": ("gelu_tanh", "gelu_pytorch_tanh", "gelu_new"),
    "quick_gelu": ("quick_gelu", "quickgelu"),
    "silu": ("silu", "swish"),
}
"""The values of --activation, and the names that transformers and timm have for each."""


@dataclass(frozen=True)
class Part:
    """One of our tensors: its shape, its source tensors, and the function that makes it from them in float64."""

    shape: Shape
    sources: tuple[str, ...]
    make: Make


@dataclass
class Translation(ForeignModel):
    """A model of a family; the family's `translate` reads it and defines our tensors.

    LayerNormalization has one epsilon in all our models. If a family has another one, everything that is added to the
    residual stream is multiplied by the same number: (c x - c m) / sqrt(c^2 v + e) = (x - m) / sqrt(v + e / c^2).
    The scale after a layer is folded into its weights, and so are the mean and the standard deviation of the pixels.

    Attributes:
        mean, std: of pixels in [0, 1], by channel; if all values are equal, they apply to any number of channels.
        parts: our tensors, by name.
        model: the part of our config that the tensors don't determine.
        notes: what a user should know.
        norm_epsilon: that of the library's norms, set by `epsilon`.
    """

    mean: Sequence[float] = (0.5, 0.5, 0.5)
    std: Sequence[float] = (0.5, 0.5, 0.5)
    parts: dict[str, Part] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    norm_epsilon: float = LAYER_NORM_EPSILON
    _stream: float = 1.0
    _has_halves: bool = False

    def begin(
        self,
        activation: str,
        patches: str | Layer,
        *,
        is_only: bool,
        heads: int = 12,
        is_flat: bool = False,
        is_swiglu: bool = False,
    ) -> None:
        """The start of a transformers model: activation, patches and heads.

        Args:
            activation: the default of transformers.
            patches: the patch embedding.
            is_only: whether all released models of the family have this activation.
            heads: their default number.
            is_flat: as for `patches`.
            is_swiglu: whether the gate has SiLU, whatever the config says.
        """
        if is_swiglu:
            self.activation("silu", "SwiGLU has")
        else:
            usual = activation if self.config or is_only else None
            self.activation(self.config.get("hidden_act"), "the config says hidden_act", usual)
        self.patches(patches, is_flat=is_flat)
        said = self.setting("num_attention_heads", heads) if self.config.get("num_attention_heads") is not None else None
        self.choose_heads(said, "the config says num_attention_heads", heads if self.config else None)
        self.claim(hidden_size=self.width)

    def encoder(
        self, pattern: str, names: Block, count_key: str = "num_hidden_layers", size_key: str = "intermediate_size"
    ) -> None:
        """The blocks, which all have the same layers.

        `pattern` and `count_key` are as for `blocks`; `size_key` is the config's for the hidden size of MLPs, or "".
        """
        self.model["rms_norm"] = names.rms
        for ours in self.blocks(pattern, count_key):
            self.attention_block(ours, names)
            hidden = self.mlp(f"{ours}/Mlp", *names.mlp, gate=names.gate, norm=names.mlp_norm, scale=names.scales[1])
            if size_key:
                self.claim(**{size_key: hidden})

    def attention_block(self, ours: str, names: Block) -> None:
        """What a block has but for its MLP."""
        self.norm(f"{ours}/LayerNorm_0", names.norms[0], has_bias=not names.rms)
        self.attention(f"{ours}/SelfAttention", names.projections, names.out, scale=names.scales[0])
        if names.qk_norms[0]:
            self._head_norms(f"{ours}/SelfAttention", *names.qk_norms, wide=names.wide_qk_norms)
        if names.attention_norm:
            self.norm(f"{ours}/SelfAttention/LayerNorm", names.attention_norm)
        self.norm(f"{ours}/LayerNorm_1", names.norms[1], has_bias=not names.rms)

    def epsilon(self, default: float, *, is_only: bool = False, is_told: bool = False, key: str = "layer_norm_eps") -> None:
        """Sets the epsilon of every norm, if the config has no such `key`. Call this first.

        With `is_only`, any other epsilon is refused. With `is_told`, the architecture's name states the default.
        """
        if self.config.get(key) is None and not is_told:
            self.taken["epsilon"] = default
        value = self.setting(key, default)
        if is_only and value != default:
            raise ConfigError(f"the config says {key} {shown(value)}, and only {default} can be exported here")
        if not 0 < value < 1:
            raise ConfigError(f"the config says {key} {shown(value)}, which is not between 0 and 1")
        self.norm_epsilon, self._stream = value, math.sqrt(LAYER_NORM_EPSILON / value)
        if self._stream != 1:
            self.model["stream_scale"] = self._stream

    def activation(self, said: Any, source: str, usual: str | None = None) -> None:
        """Sets the activation of all MLPs, see `choose`; `said` is its name in transformers or timm.

        Raises ConfigError if we lack it.
        """
        found = next((name for name, names in _ACTIVATIONS.items() if said in names), None)
        if said is not None and found is None:
            known = ", ".join(sorted(name for names in _ACTIVATIONS.values() for name in names))
            raise ConfigError(f"{source} {shown(said)}, which can't be exported; {known} can")
        ours = {"gelu": "gelu_erf", "quick_gelu": "gelu_quick"}
        chosen = self.choose("activation", found, source, usual)
        self.model["activation"] = ours.get(chosen, chosen)

    def put(self, name: str, shape: Shape, sources: Sequence[str], make: Make, *, stream: bool = False) -> None:
        """Defines one of our tensors; with `stream`, it is scaled like the residual stream."""
        scale = self._stream if stream else 1.0
        sources = tuple(self.block + source for source in sources)
        self.parts[name] = Part(shape, sources, (lambda *arrays: make(*arrays) * scale) if scale != 1 else make)

    def patches(self, layer: str | Layer, *, is_flat: bool = False) -> None:
        """The convolution (D, C, ph, pw) that turns patches into tokens, for pixels in [-1, 1].

        With `is_flat`, a dense layer (D, p * p * 3) of square patches, whose values are in the order row, column, channel.
        """
        layer = Layer.of(layer)
        name = layer.weight
        if is_flat:
            width, values = self.shape(name, 2)
            channels, height, columns = 3, *(math.isqrt(values // 3),) * 2
            self.check(name, width, height * columns * channels)
        else:
            width, channels, height, columns = self.shape(name, 4)
        self.width, self.patch = width, (height, columns)
        if len({*self.mean}) == len({*self.std}) == 1:
            self.mean, self.std = (self.mean[0],) * channels, (self.std[0],) * channels
        if len(self.mean) != channels or len(self.std) != channels or min(self.std) <= 0:
            raise ConfigError(
                f"tensor {self.told(name)} takes {channels} channels, but pictures have the mean {tuple(self.mean)}, "
                f"the std {tuple(self.std)}; set image_mean and image_std in preprocessor_config.json"
            )
        patch = self.config.get("patch_size")
        if patch not in (None, height) and patch != [height, columns]:
            raise ConfigError(f"the config says patch_size {shown(patch)}, but the checkpoint has {[height, columns]}")
        slope = 0.5 / np.array(self.std).reshape(1, -1, 1, 1)
        offset = ((0.5 - np.array(self.mean)) / np.array(self.std)).reshape(1, -1, 1, 1)

        def convolution(kernel: Array) -> Array:
            return kernel.reshape(width, height, columns, channels).transpose(0, 3, 1, 2) if is_flat else kernel

        self.put(
            "embedding/kernel",
            (height, columns, channels, width),
            [name],
            lambda kernel: (convolution(kernel) * slope).transpose(2, 3, 1, 0),
            stream=True,
        )
        if layer.bias:
            self.check(layer.bias, width)
        self.put(
            "embedding/bias",
            (width,),
            [name, layer.bias] if layer.bias else [name],
            lambda kernel, bias=0.0: (convolution(kernel) * offset).sum(axis=(1, 2, 3)) + bias,
            stream=True,
        )

    def tokens(
        self,
        *names: str,
        positions: str = "",
        rows: int = 0,
        antialias: bool = False,
        linear: bool = False,
        is_read: bool = True,
    ) -> int:
        """The tokens in front of the patches, in order, and the position embedding of all. Returns their number.

        Args:
            names: tensors of the tokens, [..., R, D] for R tokens or [D]; with `is_read`, the classifier reads the first.
            positions: the position embedding, (1, rows + patches, D) or without the 1; or none.
            rows: how many of the tokens have a position; the others get zeros.
            antialias, linear: how the positions are resized if the image has another size, see `resized_grid`.
        """
        counts = {name: self._token_count(name) for name in names}
        read = names[:1] if is_read else ()
        self._join_tokens("cls", read, counts)
        self._join_tokens(EXTRA_TOKENS, names[len(read) :], counts)
        if positions:
            self._positions(positions, sum(counts.values()), rows, antialias=antialias, linear=linear)
        return sum(counts.values())

    def _token_count(self, name: str) -> int:
        info = self.tensors.get(name)
        leading = [None] * (len(info.shape) - 1) if info else []
        return math.prod(self.check(name, *leading, self.width)[:-1])

    def _join_tokens(self, ours: str, names: Sequence[str], counts: Mapping[str, int]) -> None:
        """Defines one of our tensors from the tokens of several, if there are any."""
        if not names:
            return
        width = self.width

        def join(*arrays: Array) -> Array:
            return np.concatenate([array.reshape(1, -1, width) for array in arrays], axis=1)

        self.put(ours, (1, sum(counts[name] for name in names), width), names, join, stream=True)

    def _positions(self, name: str, count: int, rows: int, **resizing: bool) -> None:
        info = self.tensors.get(name)
        shape = self.shape(name, 2 if info is not None and len(info.shape) == 2 else 3)
        patches, width = shape[-2] - rows, self.width
        source = self.trained_grid()
        if math.prod(source) not in (0, patches) and "image_size" in self.config:
            raise CheckpointError(
                f"tensor {self.told(name)} is for {patches} patches, but the config's image_size "
                f"{self.config['image_size']} has {math.prod(source)}"
            )
        if math.prod(source) != patches:
            source = (math.isqrt(max(patches, 0)),) * 2
        if shape[-1] != width or patches < 1 or math.prod(source) != patches:
            raise CheckpointError(
                f"tensor {self.told(name)} has shape {shape}, but it needs {rows} rows and those of a grid of patches, "
                f"each {width} wide"
            )
        height, columns = self.patch
        if self.image_size is None:
            self.image_size = source[0] * height, source[1] * columns
        grid = self.image_size[0] // height, self.image_size[1] // columns
        if 0 in grid:
            raise OptionError(f"an image of {self.image_size[0]}x{self.image_size[1]} px is smaller than one patch")
        self.notes += resize_notes(source, grid)

        def make(array: Array) -> Array:
            array = array.reshape(-1, width)
            own = np.concatenate([array[:rows], np.zeros((count - rows, width))])
            resized = resized_grid(array[rows:].reshape(*source, width), grid, **resizing)
            return np.concatenate([own, resized.reshape(-1, width)])[None]

        self.put(POSITION_EMBEDDING, (1, count + math.prod(grid), width), [name], make, stream=True)

    def image_grid(self) -> tuple[int, int]:
        """Rows and columns of patches, of the config's image size if no other is known.

        Raises ConfigError if there is none.
        """
        height, columns = self.patch
        if self.image_size is None:
            trained = self.trained_grid()
            if 0 in trained:
                raise ConfigError("neither the tensors nor a config say the image size; pass --image-size HxW")
            self.image_size = trained[0] * height, trained[1] * columns
        return self.image_size[0] // height, self.image_size[1] // columns

    def rotary(self, coordinates: Array, frequencies: Array, *, front: int, has_halves: bool) -> None:
        """Positions by which the blocks turn queries and keys. Call this after `tokens` and before `blocks`.

        Args:
            coordinates: (patches, 2), of each patch in the order of their angles.
            frequencies: (D/H/4,), the same for both coordinates.
            front: tokens in front of the patches, which are not rotated.
            has_halves: whether a pair is made of columns p and p + D/H/2 of a head, as against 2 p and 2 p + 1.

        Raises:
            ConfigError: the heads' columns are not so many pairs.
        """
        if (size := self.width // self.heads) % 4:
            raise ConfigError(f"rotary positions need heads of a multiple of 4 columns, not {size}")
        if POSITION_EMBEDDING not in self.parts:
            self.model["encoder"] = {"position_emb": {"name": "none"}}
        self._has_halves = has_halves
        every, zero = np.concatenate([np.zeros((front, 2)), coordinates])[None], np.zeros_like(frequencies)
        by_pair = np.stack([np.concatenate([frequencies, zero]), np.concatenate([zero, frequencies])])
        self.put(ROTARY[0], every.shape, [], lambda: every)
        self.put(ROTARY[1], by_pair.shape, [], lambda: by_pair)

    def probe(self, name: str) -> None:
        """The token that an attention pool asks with. Raises CheckpointError if there are several."""
        if (count := self._token_count(name)) != 1:
            raise CheckpointError(f"tensor {self.told(name)} holds {count} tokens, and a pool with one can be exported")
        self.put("MapHead/probe", (1, 1, self.width), [name], lambda array: array)

    def router(self, ours: str, name: str) -> int:
        """A router (E, D) without a bias; returns E."""
        experts, width = self.check(name, None, self.width)
        self.put(ours, (width, experts), [name], lambda array: array.T)
        return experts

    def projection(self, name: str) -> None:
        """A projection (D, E) of the head's input, which is not transposed and has no bias."""
        width, size = self.check(name, self.width, None)
        self.put("projection/kernel", (width, size), [name], lambda array: array)
        self.put("projection/bias", (size,), [], lambda: np.zeros(size))

    def mean_token(self, count: int) -> None:
        """The mean of several tokens that pooling joins, as a projection without a tanh."""
        width = self.width
        self.put("projection/kernel", (count * width, width), [], lambda: np.concatenate([np.eye(width)] * count) / count)
        self.put("projection/bias", (width,), [], lambda: np.zeros(width))

    def mean_head(self, *names: str) -> None:
        """The mean of several heads of one token each, as one head of all these tokens."""
        count, classes = len(names), self.shape(f"{names[0]}.weight", 2)[0]
        for name in names:
            self.dense("head", name, outputs=classes)
        sources = [[f"{name}.{leaf}" for name in names] for leaf in ("weight", "bias")]
        shape = (count * self.width, classes)
        self.put("head/kernel", shape, sources[0], lambda *arrays: np.concatenate([a.T for a in arrays]) / count)
        self.put("head/bias", (classes,), sources[1], lambda *arrays: sum(arrays) / count)

    def norm(self, ours: str, name: str, *, size: int = 0, stream: bool = False, has_bias: bool = True) -> None:
        """A LayerNormalization of this size, or of the stream's width, or an RMS norm, which has no bias.

        With `stream`, its output is the stream.
        """
        size = size or self.width
        for leaf, own in (("scale", "weight"), ("bias", "bias"))[: 1 + has_bias]:
            self.check(f"{name}.{own}", size)
            self.put(f"{ours}/{leaf}", (size,), [f"{name}.{own}"], lambda array: array, stream=stream)

    def dense(
        self, ours: str, layer: str | Layer, *, inputs: int = 0, outputs: int = 0, scale: str = "", stream: bool = False
    ) -> int:
        """A dense layer, or a torch module of that name; `scale` names a tensor that multiplies its outputs.

        Returns:
            The number of outputs.
        """
        layer = Layer.of(layer)
        index, count = layer.part
        total, depth = self.check(layer.weight, outputs * count or None, inputs or self.width)
        if total % count:
            raise CheckpointError(f"tensor {self.told(layer.weight)} has {total} outputs, which are not two halves")
        width = total // count
        rows = slice(index * width, (index + 1) * width)
        biased = slice(width) if layer.has_own_bias else rows
        kernel, bias = [layer.weight], [layer.bias] if layer.bias else []
        for name in (layer.bias, layer.mask):
            if name:
                self.check(name, width if layer.has_own_bias else total)
        if scale:
            self.check(scale, width)
            kernel, bias = [*kernel, scale], [*bias, scale] if bias else []
        self.put(f"{ours}/kernel", (depth, width), kernel, lambda array, by=1.0: array[rows].T * by, stream=stream)
        if layer.mask:
            self.put(f"{ours}/bias", (width,), [*bias, layer.mask], lambda array, by: (array * by)[rows], stream=stream)
        else:
            zeros = np.zeros(total)
            self.put(f"{ours}/bias", (width,), bias, lambda array=zeros, by=1.0: array[biased] * by, stream=stream)
        return width

    def attention(
        self, ours: str, layers: Sequence[str | Layer | None], out: str | Layer, *, scale: str = "", stream: bool = True
    ) -> None:
        """Attention with these layers of queries, keys and values; without one for queries, they are what it is asked."""
        for name, layer in zip(("query", "key", "value"), layers, strict=True):
            if layer:
                self.dense(f"{ours}/{name}", layer, outputs=self.width)
                self._by_head(f"{ours}/{name}")
        self.dense(f"{ours}/out", out, outputs=self.width, scale=scale, stream=stream)
        kernel = f"{ours}/out/kernel"
        self.parts[kernel] = replace(self.parts[kernel], shape=(self.heads, self.width // self.heads, self.width))

    def _head_norms(self, ours: str, query: str, key: str, *, wide: bool) -> None:
        """The norms of each head's queries and keys, with the epsilon of the others.

        With `wide`, they are RMS norms of all heads together, with our epsilon.
        """
        self.model["wide_qk_norm"] = wide
        for name, source in (("query", query), ("key", key)):
            self.norm(f"{ours}/{name}_ln", source, size=self.width if wide else self.width // self.heads, has_bias=not wide)
            for leaf in () if wide or self._stream == 1 else ("kernel", "bias"):  # as the stream in front of other norms
                self._change(f"{ours}/{name}/{leaf}", lambda array: array * self._stream)

    def mlp(
        self,
        ours: str,
        first: str | Layer,
        second: str | Layer,
        *,
        scale: str = "",
        stream: bool = True,
        gate: str | Layer | None = None,
        norm: str = "",
    ) -> int:
        """An MLP; `gate` and `norm` are as for `Block`. Returns the width of its hidden layer."""
        if gate == first:
            gate, first = Layer.of(first).parts(2)
        hidden = self.dense(f"{ours}/Dense_0", first)
        if gate:
            self.dense(f"{ours}/Gate", gate, outputs=hidden)
        if norm:
            self.norm(f"{ours}/LayerNorm", norm, size=hidden)
        self.dense(f"{ours}/Dense_1", second, inputs=hidden, outputs=self.width, scale=scale, stream=stream)
        return hidden

    def widen(self, ours: str, other: str) -> None:
        """Gives an MLP zeros for hidden features, until it has as many as another one. Raises ConfigError: it has more."""
        hidden, wanted = (self.parts[f"{name}/Dense_0/bias"].shape[0] for name in (ours, other))
        if hidden > wanted:
            raise ConfigError(
                f"an attention pool whose MLP is wider ({hidden}) than the blocks' ({wanted}) can't be exported"
            )
        for name, axis in ((f"{ours}/Dense_0/kernel", 1), (f"{ours}/Dense_0/bias", 0), (f"{ours}/Dense_1/kernel", 0)):
            shape = self.parts[name].shape
            padding = [(0, wanted - hidden if each == axis else 0) for each in range(len(shape))]
            self._change(name, partial(np.pad, pad_width=padding), (*shape[:axis], wanted, *shape[axis + 1 :]))

    def experts(self, ours: str, names: Sequence[str], first: str, second: str) -> None:
        """The MLPs of a MoE layer, stacked in our tensors."""
        hidden = 0
        for layer, own, stream in (("Dense_0", first, False), ("Dense_1", second, True)):
            made = [f"{ours}/{layer}/{i}" for i in range(len(names))]
            each = zip(made, names, strict=True)
            outputs = [self.dense(expert, f"{name}{own}", inputs=hidden, stream=stream) for expert, name in each]
            hidden = outputs[0]
            for leaf in ("kernel", "bias"):
                parts = [self.parts.pop(f"{expert}/{leaf}") for expert in made]
                if len({part.shape for part in parts}) > 1:
                    raise CheckpointError(f"the experts {names[0]}{own} to {names[-1]}{own} differ in their shapes")

                def stack(*arrays: Array, parts: Sequence[Part] = parts) -> Array:
                    return np.stack([part.make(array) for part, array in zip(parts, arrays, strict=True)])

                sources = tuple(source for part in parts for source in part.sources)
                self.parts[f"{ours}/{layer}/{leaf}"] = Part((len(names), *parts[0].shape), sources, stack)

    def _by_head(self, layer: str) -> None:
        """Gives a projection of attention an axis for the heads."""
        heads, size = self.heads, self.width // self.heads

        def by_head(array: Array) -> Array:
            if not self._has_halves or layer.endswith("/value"):
                return array
            # Columns p and p + D/H/2 of each head stand side by side, in which order no product of queries and keys differs.
            return array.reshape(-1, heads, 2, size // 2).swapaxes(2, 3).reshape(array.shape)

        self._change(f"{layer}/kernel", by_head, (self.width, heads, size))
        self._change(f"{layer}/bias", by_head, (heads, size))

    def _change(self, name: str, change: Callable[[Array], Array], shape: Shape | None = None) -> None:
        """Changes one of our tensors, and its shape."""
        part = self.parts[name]
        self.parts[name] = Part(shape or part.shape, part.sources, lambda *arrays: change(part.make(*arrays)))
