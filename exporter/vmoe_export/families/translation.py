"""Translate the tensors of another library's model to the exporter's tensors.

The tensors are renamed, transposed, split, joined and scaled.
"""

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
"""For each value of --activation, its names in transformers and timm."""


@dataclass(frozen=True)
class Part:
    """One of the exporter's tensors.

    It consists of a shape, the source tensors, and the function that computes the tensor from them in float64.
    """

    shape: Shape
    sources: tuple[str, ...]
    make: Make


@dataclass
class Translation(ForeignModel):
    """A model of a family, and the exporter's tensors made from it. The family's `translate` calls its methods.

    In the exporter, LayerNormalization always has the same epsilon e. A family's epsilon e / c^2 is emulated by making the
    residual stream c times larger: everything that is added to the stream is multiplied by c. This has the effect of the
    family's epsilon, because (c x - c m) / sqrt(c^2 v + e) = (x - m) / sqrt(v + e / c^2), where m is the mean of x and v its
    variance. A scale after a layer is folded into the layer's weights. The pixels' mean and standard deviation are folded
    into the patch embedding.

    Attributes:
        mean, std: mean and standard deviation of the pixels in [0, 1], per channel. If all channels share one mean and one
            standard deviation, these apply to any number of channels.
        parts: the exporter's tensors defined so far, by name.
        model: the part of the exporter's model config that the tensors don't determine.
        notes: notes for the user.
        norm_epsilon: epsilon of the library's norms, set by `epsilon`.
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
        """Read the start of a transformers model, which sets its activation, patches and heads.

        Args:
            activation: the activation that transformers uses if a config sets none.
            patches: the layer of the patch embedding.
            is_only: whether all released models of the family have this activation.
            heads: the number of heads that transformers uses if a config sets none.
            is_flat: same as in the method `patches`.
            is_swiglu: whether the MLPs are SwiGLU. If so, their activation is SiLU, and the config's activation is ignored.
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
        """Read the blocks, which all have the same layers.

        Args:
            pattern, count_key: same as in the method `blocks`.
            names: names of a block's layers.
            size_key: the config's key for the hidden size of the MLPs, or "" if there is none.
        """
        self.model["rms_norm"] = names.rms
        for ours in self.blocks(pattern, count_key):
            self.attention_block(ours, names)
            hidden = self.mlp(f"{ours}/Mlp", *names.mlp, gate=names.gate, norm=names.mlp_norm, scale=names.scales[1])
            if size_key:
                self.claim(**{size_key: hidden})

    def attention_block(self, ours: str, names: Block) -> None:
        """Read all parts of a block except its MLP."""
        self.norm(f"{ours}/LayerNorm_0", names.norms[0], has_bias=not names.rms)
        self.attention(f"{ours}/SelfAttention", names.projections, names.out, scale=names.scales[0])
        if names.qk_norms[0]:
            self._head_norms(f"{ours}/SelfAttention", *names.qk_norms, wide=names.wide_qk_norms)
        if names.attention_norm:
            self.norm(f"{ours}/SelfAttention/LayerNorm", names.attention_norm)
        self.norm(f"{ours}/LayerNorm_1", names.norms[1], has_bias=not names.rms)

    def epsilon(self, default: float, *, is_only: bool = False, is_told: bool = False, key: str = "layer_norm_eps") -> None:
        """Set the epsilon of every norm to the value of `key` in the config, or else to `default`. Call this first.

        With `is_only`, any config value other than `default` is refused. With `is_told`, the architecture's name determines
        `default`, so `default` is not listed as an assumption.
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
        """Set the activation of all MLPs to the result of `choose`.

        `said` is the activation's name in transformers or timm. The other arguments are those of `choose`.

        Raises:
            ConfigError: the exporter has no such activation.
        """
        found = next((name for name, names in _ACTIVATIONS.items() if said in names), None)
        if said is not None and found is None:
            known = ", ".join(sorted(name for names in _ACTIVATIONS.values() for name in names))
            raise ConfigError(f"{source} {shown(said)}, which can't be exported; {known} can")
        ours = {"gelu": "gelu_erf", "quick_gelu": "gelu_quick"}
        chosen = self.choose("activation", found, source, usual)
        self.model["activation"] = ours.get(chosen, chosen)

    def put(self, name: str, shape: Shape, sources: Sequence[str], make: Make, *, stream: bool = False) -> None:
        """Define one of the exporter's tensors. With `stream`, scale its values by the factor of the residual stream."""
        scale = self._stream if stream else 1.0
        sources = tuple(self.block + source for source in sources)
        self.parts[name] = Part(shape, sources, (lambda *arrays: make(*arrays) * scale) if scale != 1 else make)

    def patches(self, layer: str | Layer, *, is_flat: bool = False) -> None:
        """Read the layer that turns patches into tokens, and adapt it to pixels in [-1, 1].

        By default, the layer is a convolution with weights (D, channels, patch height, patch width). With `is_flat`, it is a
        dense layer with weights (D, p * p * 3), for square patches of p * p pixels. The values of a patch are then in the
        order row, column, channel.
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
        """Read the tokens before the patches, in order, and the position embedding of all tokens.

        Args:
            names: names of the tensors that hold the tokens: [..., R, D] holds R tokens, and [D] holds one.
            positions: name of the position embedding, which is (1, rows + patches, D) or (rows + patches, D). If there is
                none, the name is "".
            rows: number of tokens before the patches that have a position, counted from the first token. The remaining
                tokens before the patches get zeros as positions.
            antialias, linear: how to resize the positions if they are for another image size. See `resized_grid`.
            is_read: whether the classifier reads the first of `names`.

        Returns:
            The number of tokens before the patches.
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
        """Define the tensor `ours`, which holds the tokens of all `names` in order. If `names` is empty, define nothing."""
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
                f"tensor {self.told(name)} has shape {shape}, but it needs {rows} rows plus one per patch of a grid, "
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
        """Return the (rows, columns) of patches. If no image size is set yet, set it to the config's image size.

        Raises:
            ConfigError: no image size is known.
        """
        height, columns = self.patch
        if self.image_size is None:
            trained = self.trained_grid()
            if 0 in trained:
                raise ConfigError("neither the tensors nor a config give the image size; pass --image-size HxW")
            self.image_size = trained[0] * height, trained[1] * columns
        return self.image_size[0] // height, self.image_size[1] // columns

    def rotary(self, coordinates: Array, frequencies: Array, *, front: int, has_halves: bool) -> None:
        """Define how queries and keys are rotated in the blocks. Call this after `tokens` and before `blocks`.

        Args:
            coordinates: (patches, 2), one row per patch. The angles of the first coordinate come before those of the second.
            frequencies: (D/H/4,) for H heads, the frequencies that both coordinates use.
            front: number of tokens before the patches. They are not rotated.
            has_halves: whether columns p and p + D/H/2 of a head are rotated together. If false, columns 2 p and 2 p + 1 are
                rotated together.

        Raises:
            ConfigError: the number of columns per head is not a multiple of 4.
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
        """Read an attention pool's query token. Raise CheckpointError if the pool has several query tokens."""
        if (count := self._token_count(name)) != 1:
            raise CheckpointError(f"tensor {self.told(name)} holds {count} tokens, but only a pool with one can be exported")
        self.put("MapHead/probe", (1, 1, self.width), [name], lambda array: array)

    def router(self, ours: str, name: str) -> int:
        """Read a router (E, D) without a bias, and return the number of experts E."""
        experts, width = self.check(name, None, self.width)
        self.put(ours, (width, experts), [name], lambda array: array.T)
        return experts

    def projection(self, name: str) -> None:
        """Read a projection (D, E) that is applied to the head's input.

        The projection has no bias. Unlike a dense layer's weight, it is not transposed.
        """
        width, size = self.check(name, self.width, None)
        self.put("projection/kernel", (width, size), [name], lambda array: array)
        self.put("projection/bias", (size,), [], lambda: np.zeros(size))

    def mean_token(self, count: int) -> None:
        """Define a projection that averages `count` tokens.

        Its input is the result of pooling, in which these tokens are concatenated. No tanh follows the projection.
        """
        width = self.width
        self.put("projection/kernel", (count * width, width), [], lambda: np.concatenate([np.eye(width)] * count) / count)
        self.put("projection/bias", (width,), [], lambda: np.zeros(width))

    def mean_head(self, *names: str) -> None:
        """Define one head that returns the mean of the outputs of the heads `names`.

        Each of the heads `names` reads one token. The new head reads the concatenation of all these tokens.
        """
        count, classes = len(names), self.shape(f"{names[0]}.weight", 2)[0]
        for name in names:
            self.dense("head", name, outputs=classes)
        sources = [[f"{name}.{leaf}" for name in names] for leaf in ("weight", "bias")]
        shape = (count * self.width, classes)
        self.put("head/kernel", shape, sources[0], lambda *arrays: np.concatenate([a.T for a in arrays]) / count)
        self.put("head/bias", (classes,), sources[1], lambda *arrays: sum(arrays) / count)

    def norm(self, ours: str, name: str, *, size: int = 0, stream: bool = False, has_bias: bool = True) -> None:
        """Read a norm over `size` values or, if `size` is 0, over the width of the residual stream.

        A norm without a bias is an RMS norm. With `stream`, the norm's output is the residual stream, so the output is
        scaled like the stream.
        """
        size = size or self.width
        for leaf, own in (("scale", "weight"), ("bias", "bias"))[: 1 + has_bias]:
            self.check(f"{name}.{own}", size)
            self.put(f"{ours}/{leaf}", (size,), [f"{name}.{own}"], lambda array: array, stream=stream)

    def dense(
        self, ours: str, layer: str | Layer, *, inputs: int = 0, outputs: int = 0, scale: str = "", stream: bool = False
    ) -> int:
        """Read a dense layer.

        Args:
            ours: the exporter's name for the layer.
            layer: the layer in the library.
            inputs: number of inputs that the layer must have. 0 means the width of the residual stream.
            outputs: number of outputs that the layer must have. 0 allows any number.
            scale: name of a tensor that multiplies the layer's outputs, or "" if there is none.
            stream: whether the outputs are added to the residual stream, and are therefore scaled like the stream.

        Returns:
            The number of outputs.
        """
        layer = Layer.of(layer)
        index, count = layer.part
        total, depth = self.check(layer.weight, outputs * count or None, inputs or self.width)
        if total % count:
            raise CheckpointError(f"tensor {self.told(layer.weight)} has {total} outputs, which can't be divided by {count}")
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
        """Read attention.

        `layers` are the layers of queries, keys and values. If the query layer is None, the input itself is the query.
        """
        for name, layer in zip(("query", "key", "value"), layers, strict=True):
            if layer:
                self.dense(f"{ours}/{name}", layer, outputs=self.width)
                self._by_head(f"{ours}/{name}")
        self.dense(f"{ours}/out", out, outputs=self.width, scale=scale, stream=stream)
        kernel = f"{ours}/out/kernel"
        self.parts[kernel] = replace(self.parts[kernel], shape=(self.heads, self.width // self.heads, self.width))

    def _head_norms(self, ours: str, query: str, key: str, *, wide: bool) -> None:
        """Read the norms of queries and keys.

        Without `wide`, each norm covers one head and has the library's epsilon, like the model's other norms. With `wide`,
        each norm is an RMS norm over all heads together, with the exporter's epsilon.
        """
        self.model["wide_qk_norm"] = wide
        for name, source in (("query", query), ("key", key)):
            self.norm(f"{ours}/{name}_ln", source, size=self.width if wide else self.width // self.heads, has_bias=not wide)
            # Scale queries and keys by the factor of the residual stream. The exporter's epsilon then has the same effect on
            # them as the library's epsilon.
            for leaf in () if wide or self._stream == 1 else ("kernel", "bias"):
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
        """Read an MLP, and return its hidden size. `gate` and `norm` have the same meaning as in `Block`."""
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
        """Pad the MLP `ours` with zero hidden features to the hidden size of the MLP `other`.

        Raise ConfigError if `ours` is wider than `other`.
        """
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
        """Read the experts of a MoE layer.

        The kernels and biases are stacked, with one entry per expert.
        """
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
        """Give an attention projection an axis for the heads, and reorder each head's columns for the exporter."""
        heads, size = self.heads, self.width // self.heads

        def by_head(array: Array) -> Array:
            if not self._has_halves or layer.endswith("/value"):
                return array
            # Interleave the two halves of each head's columns, so that columns that are rotated together become adjacent.
            # The column order does not change the products of queries and keys.
            return array.reshape(-1, heads, 2, size // 2).swapaxes(2, 3).reshape(array.shape)

        self._change(f"{layer}/kernel", by_head, (self.width, heads, size))
        self._change(f"{layer}/bias", by_head, (heads, size))

    def _change(self, name: str, change: Callable[[Array], Array], shape: Shape | None = None) -> None:
        """Apply the function `change` to the values of the tensor `name`. If the shape changes, pass the new `shape`."""
        part = self.parts[name]
        self.parts[name] = Part(shape or part.shape, part.sources, lambda *arrays: change(part.make(*arrays)))
