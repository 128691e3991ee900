"""Small random models of every kind that the official code can build, with export options and run settings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

Tensors = dict[str, np.ndarray]


class Setting(NamedTuple):
    """The setting of a call. If `max_experts` is 0, the number of experts is not limited."""

    capacity: float
    k: int
    bpr: bool
    pool: bool = False
    max_experts: int = 0


@dataclass(frozen=True)
class Variant:
    """A model, and how to export and run it.

    Attributes:
        trained_grid: rows and columns of patches in a learned position embedding.
        image_size: height and width of the images in pixels.
        moe: indices of the MoE blocks.
        experts: E of the MoE blocks. If the blocks have different values of E, this is the largest value.
        layer_experts: E of each MoE block if the blocks have different values of E; otherwise empty.
        options: options of `export_bundle` in addition to the config.
        settings: capacity ratio, k and bpr for each run of the bundle. The first setting is also the bundle's profile.
        batch_multiple: the number of images in a batch must be a multiple of this number, so that all groups are full.
        group_tokens: S, or None if S is the number of tokens in an image.
    """

    name: str
    classifier: str
    position: str
    trained_grid: tuple[int, int]
    image_size: tuple[int, int]
    patch: tuple[int, int] = (4, 4)
    channels: int = 3
    hidden: int = 24
    heads: int = 3
    layers: int = 2
    moe: tuple[int, ...] = ()
    experts: int = 4
    layer_experts: tuple[int, ...] = ()
    qk_norm: bool = False
    representation: int | None = None
    classes: int | None = 7
    temperature: float = 10_000.0
    group_tokens: int | None = None
    batch_multiple: int = 1
    settings: tuple[tuple[float, int, bool], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    @property
    def every_setting(self) -> list[Setting]:
        """Four versions of each setting in `settings`.

        They have no policies, a pool, an expert limit, or both a pool and an expert limit.
        """
        policies = (False, 0), (True, 0), (False, (self.experts + 1) // 2), (True, max(1, self.experts - 1))
        return [Setting(*official, *policy) for official in self.settings for policy in policies]

    @property
    def experts_of(self) -> dict[int, int]:
        """E of each MoE block, by the block's index."""
        return dict(zip(self.moe, self.layer_experts or [self.experts] * len(self.moe), strict=True))

    @property
    def tokens(self) -> int:
        rows, columns = (size // patch for size, patch in zip(self.image_size, self.patch, strict=True))
        return rows * columns + (self.classifier == "token")

    @property
    def config(self) -> dict[str, Any]:
        """The part of the official config that can't be derived from the tensors."""
        position = {"name": self.position, "temperature": self.temperature}
        return {"classifier": self.classifier, "encoder": {"position_emb": position}}

    @property
    def export_options(self) -> dict[str, Any]:
        """The arguments of `export_bundle`: the config, the first setting, and the options."""
        names = ("capacity", "k", "bpr") if self.settings else ()
        first = {name: value if name == "bpr" else [value] for name, value in zip(names, *self.settings[:1], strict=False)}
        return {"config": self.config, **first, **self.options}

    @property
    def seed(self) -> int:
        return sum(self.name.encode())

    def parameters(self) -> Tensors:
        rng = np.random.default_rng(self.seed)
        return {name: _draw(rng, name, shape) for name, shape in self._shapes()}

    def write(self, folder: Path, name: str = "ckpt") -> Path:
        """Write the parameters as a checkpoint in a safetensors file, and return the file's path."""
        path = folder / f"{name}.safetensors"
        safetensors.numpy.save_file(self.parameters(), path)
        return path

    def images(self, count: int) -> np.ndarray:
        """Return random images. If the export takes uint8, they are uint8. Otherwise, they are float32 in [-1, 1]."""
        rng = np.random.default_rng(self.seed + 1)
        pixels = rng.integers(0, 256, (count, *self.image_size, self.channels), dtype=np.uint8)
        if self.options.get("input") == "uint8":
            return pixels
        return (pixels / 127.5 - 1).astype(np.float32)

    def _shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        width = self.hidden
        yield "embedding/kernel", (*self.patch, self.channels, width)
        yield "embedding/bias", (width,)
        if self.classifier == "token":
            yield "cls", (1, 1, width)
        if self.position == "learned":
            tokens = math.prod(self.trained_grid) + (self.classifier == "token")
            yield "Encoder/posembed_input/pos_embedding", (1, tokens, width)
        for i in range(self.layers):
            block = f"Encoder/encoderblock_{i}"
            yield from self._norm(f"{block}/LayerNorm_0")
            yield from self._attention(f"{block}/SelfAttention")
            yield from self._norm(f"{block}/LayerNorm_1")
            if i in self.moe:
                yield f"{block}/Moe/Router/dense/kernel", (width, self.experts_of[i])
                yield from self._mlp(f"{block}/Moe/Mlp", (self.experts_of[i],))
            else:
                yield from self._mlp(f"{block}/Mlp")
        yield from self._norm("Encoder/encoder_norm")
        if self.classifier == "map":
            yield "MapHead/probe", (1, 1, width)
            yield from self._attention("MapHead/MultiHeadDotProductAttention")
            yield from self._norm("MapHead/LayerNorm")
            yield from self._mlp("MapHead/Mlp")
        if self.representation:
            yield "pre_logits/kernel", (width, self.representation)
            yield "pre_logits/bias", (self.representation,)
        if self.classes:
            yield "head/kernel", (self.representation or width, self.classes)
            yield "head/bias", (self.classes,)

    def _norm(self, name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}/scale", (self.hidden,)
        yield f"{name}/bias", (self.hidden,)

    def _mlp(self, name: str, experts: tuple[int, ...] = ()) -> Iterator[tuple[str, tuple[int, ...]]]:
        width, inner = self.hidden, 2 * self.hidden
        yield f"{name}/Dense_0/kernel", (*experts, width, inner)
        yield f"{name}/Dense_0/bias", (*experts, inner)
        yield f"{name}/Dense_1/kernel", (*experts, inner, width)
        yield f"{name}/Dense_1/bias", (*experts, width)

    def _attention(self, name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        size = self.hidden // self.heads
        for which in ("query", "key", "value"):
            yield f"{name}/{which}/kernel", (self.hidden, self.heads, size)
            yield f"{name}/{which}/bias", (self.heads, size)
            if self.qk_norm and which != "value":
                yield f"{name}/{which}_ln/scale", (size,)
        yield f"{name}/out/kernel", (self.heads, size, self.hidden)
        yield f"{name}/out/bias", (self.hidden,)


def _draw(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draw values for a parameter.

    The values let every part of the model affect the logits, and let the router prefer some experts.
    """
    values = rng.standard_normal(shape)
    if name.endswith("scale"):
        values = 1 + 0.2 * values
    elif name == "embedding/kernel":
        values = 0.5 * values
    elif not name.endswith("Router/dense/kernel"):
        values = 0.2 * values
    return values.astype(np.float32)


VARIANTS = (
    Variant(
        "classifier 0, sincos2d, one channel, oblong patch and image, all blocks, any k up to E",
        classifier="0", position="sincos2d", temperature=100.0, trained_grid=(0, 0), image_size=(12, 24),
        patch=(4, 6), channels=1, moe=(0, 1), experts=3,
        settings=((0.5, 1, True), (1.0, 2, False), (0.4, 3, True), (3.0, 3, False)),
        options={"image_size": (12, 24)},
    ),
    Variant(
        "map head, qk-norm, representation, first block, group that cuts an image",
        classifier="map", position="learned", trained_grid=(3, 3), image_size=(12, 12), qk_norm=True,
        representation=10, moe=(0,), group_tokens=6, batch_multiple=2,
        settings=((0.5, 1, True), (1.05, 2, False), (0.34, 2, True)),
        options={"group": "tokens:6"},
    ),
    Variant(
        "mean, sincos2d, four channels, cropped image, round to a multiple, group of two images",
        classifier="gap", position="sincos2d", trained_grid=(0, 0), image_size=(14, 19), channels=4, moe=(1,),
        group_tokens=24, batch_multiple=2,
        settings=((0.3, 1, True), (0.45, 2, False), (1.05, 2, True)),
        options={"image_size": (14, 19), "group": "2", "rounding": "round", "capacity_multiple_of": 3},
    ),
    Variant(
        "token, sincos2d, bfloat16 dispatcher, group of the whole batch",
        classifier="token", position="sincos2d", trained_grid=(0, 0), image_size=(12, 12), moe=(0, 1),
        group_tokens=30, batch_multiple=3,
        settings=((0.5, 1, True), (1.05, 2, False)),
        options={"image_size": (12, 12), "group": "batch", "batch_size": 3, "dispatch_bf16": True},
    ),
    Variant(
        "mean, no position embedding, one expert, uint8 images, vanilla order",
        classifier="gap", position="none", trained_grid=(0, 0), image_size=(12, 8), moe=(0, 1), experts=1,
        settings=((0.5, 1, False), (0.5, 1, True), (1.0, 1, True)),
        options={"image_size": (12, 8), "input": "uint8", "bpr": False},
    ),
    Variant(
        "token, learned embedding resized, no head in the checkpoint",
        classifier="token", position="learned", trained_grid=(3, 3), image_size=(20, 20), moe=(1,), classes=None,
        settings=((0.3, 1, True), (1.05, 2, False)),
        options={"image_size": (20, 20)},
    ),
    Variant(
        "mean, learned embedding made smaller, features before the head, k of three",
        classifier="gap", position="learned", trained_grid=(5, 5), image_size=(16, 16), representation=9,
        moe=(0, 2), layers=3, experts=5,
        settings=((0.6, 3, True), (0.9, 3, False), (0.3, 1, True)),
        options={"image_size": (16, 16), "output": "features"},
    ),
    Variant(
        "dense, map head, qk-norm, one channel, uint8 images",
        classifier="map", position="learned", trained_grid=(3, 3), image_size=(12, 12), channels=1, qk_norm=True,
        options={"input": "uint8"},
    ),
    Variant(
        "token, learned embedding of an oblong image, groups of two images by their tokens",
        classifier="token", position="learned", trained_grid=(2, 6), image_size=(8, 24), moe=(1,), experts=8,
        group_tokens=26, batch_multiple=2, qk_norm=True,
        settings=((0.5, 1, True), (1.05, 2, False), (0.3, 2, True)),
        options={"image_size": (8, 24), "group": "tokens:26"},
    ),
    Variant(
        "dense, token, sincos2d, cropped oblong patch, representation features",
        classifier="token", position="sincos2d", trained_grid=(0, 0), image_size=(17, 15), patch=(6, 4),
        channels=4, representation=5,
        options={"image_size": (17, 15), "output": "features"},
    ),
    Variant(
        "classifier 0, no position embedding, qk-norm, groups of an image and a third",
        classifier="0", position="none", trained_grid=(0, 0), image_size=(12, 8), moe=(0,), qk_norm=True,
        group_tokens=8, batch_multiple=4,
        settings=((0.5, 1, True), (1.05, 2, False), (0.5, 4, True)),
        options={"image_size": (12, 8), "group": "tokens:8", "capacity_multiple_of": 2},
    ),
    Variant(
        "token, learned embedding, 8 experts in one block and 5 in another",
        classifier="token", position="learned", trained_grid=(4, 4), image_size=(16, 16), layers=3, moe=(0, 2),
        experts=8, layer_experts=(8, 5),
        settings=((0.3, 1, True), (1.05, 2, False), (0.6, 5, True), (7.0, 1, True)),
    ),
)  # fmt: skip
