"""The timed models, which are V-MoEs and dense ViTs of standard sizes with random weights.

Each model is exported to a bundle only once.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

import vmoe_export
from vmoe_export import export_bundle
from vmoe_export.model.model_config import ModelConfig, MoeConfig
from vmoe_export.model.parameters import parameter_shapes
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing_rules import RoutingRules
from vmoe_torch import Vmoe
from vmoe_torch.model import LayerRouting

sys.path.append(str(Path(__file__).parents[2] / "samples"))
import random_checkpoint as samples

Array = np.ndarray[Any, np.dtype[Any]]
Kind = Literal["sparse", "dense"]
Precision = Literal["fp32", "bf16", "int8", "int4", "bf16-experts"]

# variant, pixels and classes
_SIZES = {size.replace("/", "").lower(): (variant, 224, 1000) for size, variant in samples.VARIANTS.items()}
_SIZES["tiny"] = (samples.Variant(128, 4, 256, 2, 8), 64, 64)
MODELS = tuple(_SIZES)
_EXPERTS, _BALANCING_IMAGES, _BALANCING_RATIO = 8, 8, 4


def noise(*shape: int) -> Array:
    """Return images of uniform noise, float32[N,H,W,C] in [-1, 1]."""
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


@dataclass(frozen=True)
class Model:
    """A V-MoE, and the dense ViT of the same width and depth. Each bundle is exported when it is first used."""

    size: str
    experts: int
    configs: Mapping[Kind, ModelConfig]
    folder: Path

    @property
    def name(self) -> str:
        """The model's size, such as `b16`, followed by the number of experts unless there are 8, as in `b16-e32`."""
        return self.size if self.experts == _EXPERTS else f"{self.size}-e{self.experts}"

    def bundle(self, kind: Kind, precision: Precision = "fp32") -> Path:
        """Return the path of the model's bundle in the given precision.

        If the bundle is missing or was made by another version of the exporter, export it first.
        """
        path = self._path(kind, f"-{precision}.vmoe")
        stamp = path.with_suffix(".exporter")
        if not (path.exists() and stamp.exists() and stamp.read_text() == _exporter_hash()):
            options: dict[str, Any] = {"capacity": [0.3], "k": [1], "group": "image"} if kind == "sparse" else {}
            export_bundle(self.checkpoint(kind), path, precision=precision, validate=False, force=True, **options)
            stamp.write_text(_exporter_hash())
        return path

    def checkpoint(self, kind: Kind) -> Path:
        """Return the path of the checkpoint. If the checkpoint is missing, write it first."""
        path, config = self._path(kind, ".safetensors"), self.configs[kind]
        if not path.exists():
            make = samples.random_weights(0)
            routers = _balanced_routers(config, make) if config.moe else {}
            tensors = parameter_shapes(config)
            samples.write_checkpoint(path, tensors, lambda name, shape: routers.get(name, make(name, shape)))
        return path

    def _path(self, kind: Kind, ending: str) -> Path:
        return self.folder / f"{self.name if kind == 'sparse' else self.size}-{kind}{ending}"

    def images(self, batch: int) -> Array:
        """Return uniform noise, float32[N,H,W,C] in [-1, 1]."""
        config = self.configs["sparse"]
        return noise(batch, *config.image_size, config.channels)

    def profiles(self, settings: Sequence[str]) -> dict[Kind, dict[str | None, Profile | None]]:
        """Return the profiles for the V-MoE and for the dense ViT. The keys are systematic names, such as "c0.3-k1".

        Names such as "c0.3-k1" select a V-MoE profile. Names such as "r8" select a dense ViT profile. The dense ViT's
        mapping also has the key None, for a call without a profile.
        """
        rules = {kind: Bundle.open(self.bundle(kind), verify=False).manifest.rules for kind in self.configs}
        found: dict[Kind, dict[str | None, Profile | None]] = {"sparse": {}, "dense": {None: None}}
        for setting in settings:
            kind: Kind = "dense" if setting.startswith("r") else "sparse"
            found[kind][setting] = rules[kind].named(setting)
        return found


def prepare(
    size: str, folder: Path, experts: int = _EXPERTS, placement: str = "Every 2", pixels: int | None = None
) -> Model:
    """Return a model of a standard size, with weights drawn from N(0, 0.02) and balanced routers.

    Args:
        size: name of the size, such as "b16".
        folder: folder for the model's files.
        experts: experts per MoE layer.
        placement: which blocks are MoE blocks, such as "Last 5".
        pixels: side of the square images, rounded down to whole patches. None means the usual side for `size`.
    """
    variant, usual_pixels, classes = _SIZES[size]
    whole = (pixels or usual_pixels) // variant.patch * variant.patch
    layers = samples.moe_layers(placement, variant.num_layers)
    folder.mkdir(parents=True, exist_ok=True)
    sparse, dense = (samples.describe(variant, whole, classes, experts, where) for where in (layers, ()))
    return Model(size, experts, {"sparse": sparse, "dense": dense}, folder)


class _Balancing(Vmoe):
    """A V-MoE that balances each router before it uses the router.

    To balance a router, it removes the direction of the mean token from the router's weights. The tokens of a random model
    share a common component, which grows with every layer. Without balancing, a random router would send all tokens to the
    same few experts, and the other experts would be unused. Every implementation that skips empty slots would then look too
    fast.
    """

    def _sparse(self, block: str, moe: MoeConfig, x: Tensor, *setting: Any) -> tuple[Tensor, LayerRouting]:
        router = self._p(f"{block}.Moe.Router.dense.kernel")
        mean = x.mean(dim=(0, 1))
        router -= torch.outer(mean, mean @ router) / (mean @ mean)
        return super()._sparse(block, moe, x, *setting)


def _balanced_routers(config: ModelConfig, make: Any) -> dict[str, Array]:
    """Return routers that use all experts about equally, as trained routers do.

    To save memory, all experts in a layer share the first expert's weights while the routers are computed. With separate
    weights, the experts of a large model would not fit into memory.
    """
    assert config.moe is not None
    rules = RoutingRules("top-k", config.moe.experts, config.num_tokens)
    network = _Balancing(config, config.num_tokens, rules=rules)
    shapes = parameter_shapes(config)
    stored = {name: (1, *shape[1:]) if "/Moe/Mlp/" in name else shape for name, shape in shapes.items()}
    tensors = {
        name.replace("/", "."): torch.from_numpy(make(name, shape)).expand(shapes[name]) for name, shape in stored.items()
    }
    network.load_state_dict(tensors, assign=True)
    network.requires_grad_(False)
    images = torch.from_numpy(noise(_BALANCING_IMAGES, *config.image_size, config.channels))
    with torch.inference_mode():
        network(images, f"c{_BALANCING_RATIO}-k1")
    return {name.replace(".", "/"): p.numpy() for name, p in network.named_parameters() if "Router" in name}


@functools.cache
def _exporter_hash() -> str:
    """Return a hash of the exporter's source.

    The hash is stored next to each bundle. If it differs, another version of the exporter made the bundle.
    """
    sources = sorted(Path(vmoe_export.__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
