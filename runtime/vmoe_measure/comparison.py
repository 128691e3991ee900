"""Compares the outputs and the routing of two runs of one model on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from vmoe_runtime.profiles import Profile
from vmoe_runtime.resampling import resize_bilinear
from vmoe_runtime.routing import Array, layer_fields

_SEED = 20220622


def smooth_images(count: int, height: int, width: int, channels: int) -> Array:
    """Return random images with smooth shading, like photographs. Every call returns the same images.

    Returns:
        uint8[count, height, width, channels]. The first images are the same for every `count`.
    """
    rng = np.random.default_rng(_SEED)
    images = np.empty((count, height, width, channels), np.uint8)
    for image in images:
        shade = 127.5 + rng.normal(0, 4, image.shape)
        for cells in (2, 4, 8, 16):
            coarse = rng.standard_normal((cells, cells, channels))
            shade += 80 / cells**0.5 * resize_bilinear(coarse, height, width)
        image[...] = np.clip(shade, 0, 255)
    return images


@dataclass(frozen=True)
class Run:
    """The outputs of a model for a batch of whole routing groups.

    Attributes:
        output: number[images, ...]: logits, members or features.
        kept: an array for each MoE layer. There are no arrays for a dense ViT and a Soft MoE.

            - Top-K routing: i32[images, pairs], the expert that kept the (token, choice) pair, or -1 if the pair was
              dropped.
            - Expert choice: bool[images, pairs], whether the expert in the (token, expert) pair chose the token.
    """

    output: Array
    kept: list[Array]

    @classmethod
    def of(cls, names: Sequence[str], values: Sequence[Array], profile: Profile | None, *, by_token: bool = False) -> Self:
        """Create a run from the outputs of a graph.

        Args:
            names: names of the outputs of a MoE layer. All layers have the same names.
            values: the model's output, followed by the outputs of each MoE layer in the order of `names`.
            profile: the routing setting.
            by_token: whether to list the pairs by original token. If tokens were merged, the pairs of a merged token are
                then listed for each of its original tokens.
        """
        output = values[0]
        # The outputs of a MoE layer are arranged by routing group. A routing group may be only a part of an image, so the
        # pairs are regrouped by image below.
        layers = [fields for fields in layer_fields(names, values[1:], profile) if "kept" in fields]
        kept = [np.where(each["kept"], each["expert"], -1) if "expert" in each else each["kept"] for each in layers]
        if by_token:
            rows = np.arange(len(output))[:, None]
            by_image = [layer.reshape(len(output), -1, layer.shape[-1]) for layer in kept]
            kept = [
                layer[rows, each["token"]] if "token" in each else layer
                for layer, each in zip(by_image, layers, strict=True)
            ]
        return cls(output, [layer.reshape(len(output), -1) for layer in kept])

    @classmethod
    def joined(cls, runs: Sequence[Run]) -> Self:
        """Several batches as one."""
        layers = zip(*(run.kept for run in runs), strict=True)
        return cls(np.concatenate([run.output for run in runs]), [np.concatenate(layer) for layer in layers])

    def of_images(self, chosen: slice | Array) -> Run:
        """Return a run that contains only some of the images. `chosen` selects them by their index in the batch."""
        return Run(self.output[chosen], [layer[chosen] for layer in self.kept])


@dataclass(frozen=True)
class RunDifferences:
    """The differences between two runs.

    If two tokens have nearly the same gate, a rounding difference in the last place may decide which of them an expert
    keeps. If the two runs decide differently, the image's later activations differ too. The difference between the image's
    outputs then says nothing about precision. So compare only images whose routing agrees, and use medians over the images.

    Attributes:
        largest: f32[images], the largest absolute difference between the two outputs for each image.
        relative: f32[images], see `relative_differences`.
        pairs: bool[images, pairs] for each MoE layer. True if the same expert keeps the pair in both runs, or if both runs
            drop the pair.
    """

    largest: Array
    relative: Array
    pairs: list[Array]

    @property
    def alike(self) -> Array:
        """bool[images], whether both runs route an image in the same way in every layer. Always true for a dense ViT."""
        same = np.ones(len(self.largest), bool)
        for layer in self.pairs:
            same &= layer.all(axis=1)
        return same

    @property
    def agreement(self) -> float:
        """The share of the pairs that both runs route in the same way. It is 1 for a dense ViT."""
        return float(np.mean(self.pairs)) if self.pairs else 1.0


def differences(expected: Run, found: Run) -> RunDifferences:
    """Return the differences between the runs `expected` and `found`. Both must be runs on the same images."""
    images = len(expected.output)
    return RunDifferences(
        np.abs(expected.output - found.output).reshape(images, -1).max(axis=1),
        relative_differences(expected.output, found.output),
        [ours == theirs for ours, theirs in zip(expected.kept, found.kept, strict=True)],
    )


def relative_differences(expected: Array, found: Array) -> Array:
    """Return the error of each image's output relative to the norm of the expected output, f32[images].

    The error is |found - expected| / |expected|. Use the median over the images. If the two runs route a token to different
    experts, the error of that image may be far larger. It then says nothing about precision.
    """
    by_image = expected.reshape(len(expected), -1)
    size = np.maximum(np.linalg.norm(by_image, axis=1), np.finfo(np.float32).tiny)
    shares: Array = np.linalg.norm(found.reshape(by_image.shape) - by_image, axis=1) / size
    return shares
