"""The content of a bundle's manifest, and the names that every bundle uses; `manifest_reader` reads a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from vmoe_runtime.errors import RoutingError, shown
from vmoe_runtime.precisions import Precision, TensorRtPrecision
from vmoe_runtime.preprocessing import Preprocessing
from vmoe_runtime.profiles import Profile, by_layer
from vmoe_runtime.routing_kinds import KIND_NAMES
from vmoe_runtime.routing_rules import RoutingRules, profile_named

FORMAT = "vmoe-bundle"
FORMAT_VERSION = 3
"""The only format version that readers support, since no other was ever released."""

MANIFEST_NAME = "manifest.json"
WEIGHTS_NAME = "weights.safetensors"
CANONICAL_GRAPH = "model.onnx"
INLINED_GRAPH = "model.inlined.onnx"
MERGING_GRAPH = "model.merging.onnx"
"""The inlined graph that merges tokens, so that each block has fewer. Only bundles with merging profiles have it."""
IMAGE_INPUT = "image"

Output = Literal["logits", "members", "features", "tokens"]
"""The output of a graph for an image: logits; the logits of each member of an ensemble (E3); features, which are the
input of the head; or all tokens after the last block and its norm."""

OUTPUTS: tuple[Output, ...] = ("logits", "members", "features", "tokens")

Probabilities = Literal["softmax", "sigmoid"]
"""How logits become probabilities: over all classes, or of each class alone, as in SigLIP."""

PROBABILITIES: tuple[Probabilities, ...] = ("softmax", "sigmoid")

LAYER_PREFIX = "layer"


def layer_output(block: int) -> str:
    """The name of the output with the residual stream after a block, float32[N, tokens, hidden size], before any norm.

    Examples:
        >>> layer_output(3)
        'layer3'
    """
    return f"{LAYER_PREFIX}{block}"


DENSE_GRAPH_KEY = "model"
"""Replaces a profile's name among the TensorRT graphs of a dense ViT, which has no profiles."""


@dataclass(frozen=True)
class InputSpec:
    """The graph input `image`: dtype[N, height, width, channels], float32 in [-1, 1] or uint8.

    `steps` turn a picture of any size into such an image.
    """

    dtype: Literal["float32", "uint8"]
    height: int
    width: int
    channels: int
    steps: Preprocessing

    @cached_property
    def size(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.height, self.width, self.channels

    @cached_property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The type of its values."""
        return np.dtype(self.dtype)


@dataclass(frozen=True)
class FileRecord:
    """SHA-256 (hex) and size in bytes of one file of the bundle."""

    sha256: str
    size: int


@dataclass(frozen=True)
class TensorRtGraphs:
    """The graphs for TensorRT.

    Attributes:
        precision: the type of the large products.
        graphs: graph file by name of the profile it is fixed to; the one graph of a dense ViT is called "model".
    """

    precision: TensorRtPrecision
    graphs: Mapping[str, str]


@dataclass(frozen=True)
class Manifest:
    """The checked content of `manifest.json`.

    Attributes:
        model: the model description, as `vmoe-export` wrote it (field names of the official configs).
        input: the graph's input.
        output: "logits", "members", "features" or "tokens".
        outputs: size of the last dimension of the output.
        answers: the outputs of the graph except routing, by name, with their shapes per image: first that of `output`,
            (classes,), (members, classes), (feature size,) or (tokens, hidden size), then those of blocks, see
            `layer_output`.
        probabilities: how logits become probabilities; see `Probabilities`.
        moe_layers: names of the MoE blocks, such as "encoderblock_1"; empty for a dense ViT.
        rules: how settings become profiles.
        group: the routing group that was requested: "image", "batch", a number of images or "tokens:S".
        precision: precision of the large products; see `Precision`.
        batch_multiple: batches must be a multiple of this many images.
        profiles: the stored settings by name, in the order of the export; the first is the default. Dense ViTs and
            Soft MoEs have some only if they were exported with `--merge`.
        class_names: names of the classes, or None.
        tensorrt: the graphs for TensorRT, or None if the bundle was exported without them.
        files: every other file of the bundle.
        raw: the whole manifest as it was read.
    """

    model: Mapping[str, Any]
    input: InputSpec
    output: Output
    outputs: int
    answers: Mapping[str, tuple[int, ...]]
    probabilities: Probabilities
    moe_layers: tuple[str, ...]
    rules: RoutingRules
    group: str | None
    precision: Precision
    batch_multiple: int
    profiles: Mapping[str, Profile]
    class_names: tuple[str, ...] | None
    tensorrt: TensorRtGraphs | None
    files: Mapping[str, FileRecord]
    raw: Mapping[str, Any]

    def with_exif(self, rotates: bool) -> Manifest:
        """The same manifest, with pictures turned by their EXIF orientation or not."""
        return replace(self, input=replace(self.input, steps=replace(self.input.steps, rotates=rotates)))

    def profile_named(self, name: str) -> Profile:
        """The stored profile of this name, or the profile that a systematic name describes.

        Raises:
            RoutingError: the model can't be run with it, or it is not the name of a profile.
        """
        if not isinstance(name, str):
            raise RoutingError(f"a profile is given by its name, not by {shown(name)}")
        return self.profiles.get(name) or profile_named(self.rules, name, tuple(self.profiles))

    def misfit(self, images: int) -> str | None:
        """Why this number of images doesn't fill whole routing groups, as text after "the"; None if it does."""
        if images % self.batch_multiple == 0:
            return None
        return f"bundle routes in groups ({self.group}) that need a multiple of {self.batch_multiple}"

    @property
    def ensemble_size(self) -> int:
        """M, the members of an ensemble of experts (E3); 1 for every other model."""
        return self.rules.ensemble_size

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of an image's output, see `answers`."""
        return self.answers[self.output]

    @property
    def summary(self) -> str:
        """The model in words, such as "V-MoE, 12 blocks, E=8, 224x224"."""
        blocks = self.model.get("num_layers")
        words = [KIND_NAMES[self.rules.kind]]
        if self.ensemble_size > 1:
            words = [f"E3 of {self.ensemble_size} members"]
        if isinstance(blocks, int):
            words.append(f"{blocks} blocks")
        if self.moe_layers:
            words.append(f"E={by_layer(self.rules.experts)}")
        return ", ".join([*words, f"{self.input.height}x{self.input.width}"])
