"""The content of a bundle's manifest, and the names that are the same in every bundle.

The module `manifest_reader` reads a manifest.
"""

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
    """Return the name of the output that contains the residual stream after the encoder block `block`.

    The output is float32[N, tokens, hidden size], before any norm.

    Examples:
        >>> layer_output(3)
        'layer3'
    """
    return f"{LAYER_PREFIX}{block}"


DENSE_GRAPH_KEY = "model"
"""Replaces a profile's name among the TensorRT graphs of a dense ViT, which has no profiles."""


@dataclass(frozen=True)
class InputSpec:
    """The graph input `image`, an array [N, height, width, channels] of either float32 in [-1, 1] or uint8.

    The preprocessing `steps` turn a picture of any size into an image for this input.
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
        """The numpy type of the pixels."""
        return np.dtype(self.dtype)


@dataclass(frozen=True)
class FileRecord:
    """The SHA-256 (in hex) and the size in bytes of one file in the bundle."""

    sha256: str
    size: int


@dataclass(frozen=True)
class TensorRtGraphs:
    """The graphs that a bundle contains for TensorRT.

    Attributes:
        precision: the number type of the large matrix products.
        graphs: the file name of each graph, by the name of the profile that the graph is fixed to. A dense ViT has one
            graph, whose key is "model".
    """

    precision: TensorRtPrecision
    graphs: Mapping[str, str]


@dataclass(frozen=True)
class Manifest:
    """The checked content of `manifest.json`.

    Attributes:
        model: the model description that `vmoe-export` wrote. Its field names are those of the official configs.
        input: the graph's input.
        output: name of the model's output: "logits", "members", "features" or "tokens".
        outputs: size of the output's last dimension.
        answers: the shape of each output for one image, by the output's name. Routing outputs are left out. The first entry
            is for `output`, with shape (classes,), (members, classes), (feature size,) or (tokens, hidden size). The other
            entries are for blocks; see `layer_output`.
        probabilities: how logits become probabilities; see `Probabilities`.
        moe_layers: names of the MoE blocks, such as "encoderblock_1"; empty for a dense ViT.
        rules: the rules that turn settings into profiles.
        group: the routing group that was requested: "image", "batch", a number of images or "tokens:S".
        precision: precision of the large matrix products; see `Precision`.
        batch_multiple: a whole number; the number of images in a batch must be a multiple of this number.
        profiles: the stored profiles by name, in the order of the export. The first is the default. Dense ViTs and Soft MoEs
            have profiles only if they were exported with `--merge`.
        class_names: names of the classes, or None if the bundle has no names.
        tensorrt: the graphs for TensorRT, or None if the bundle was exported without them.
        files: the records of all other files in the bundle, by file name.
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
        """Return a copy of this manifest whose steps turn pictures by their EXIF orientation only if `rotates` is True."""
        return replace(self, input=replace(self.input, steps=replace(self.input.steps, rotates=rotates)))

    def profile_named(self, name: str) -> Profile:
        """Return the stored profile called `name`, or the profile that a systematic name describes.

        Raises:
            RoutingError: the model can't be run with the profile, or `name` is not the name of a profile.
        """
        if not isinstance(name, str):
            raise RoutingError(f"a profile is given by its name, not by {shown(name)}")
        return self.profiles.get(name) or profile_named(self.rules, name, tuple(self.profiles))

    def misfit(self, images: int) -> str | None:
        """Return the reason why a batch of `images` images doesn't fill whole routing groups, or None if it does.

        The caller writes "the" or "this" in front of the returned text.
        """
        if images % self.batch_multiple == 0:
            return None
        return f"bundle routes in groups ({self.group}) that need a multiple of {self.batch_multiple}"

    @property
    def ensemble_size(self) -> int:
        """The number of members, M, in an ensemble of experts (E3). It is 1 for every other model."""
        return self.rules.ensemble_size

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the model's output for one image; see `answers`."""
        return self.answers[self.output]

    @property
    def summary(self) -> str:
        """A description of the model in words, such as "V-MoE, 12 blocks, E=8, 224x224"."""
        blocks = self.model.get("num_layers")
        words = [KIND_NAMES[self.rules.kind]]
        if self.ensemble_size > 1:
            words = [f"E3 of {self.ensemble_size} members"]
        if isinstance(blocks, int):
            words.append(f"{blocks} blocks")
        if self.moe_layers:
            words.append(f"E={by_layer(self.rules.experts)}")
        return ", ".join([*words, f"{self.input.height}x{self.input.width}"])
