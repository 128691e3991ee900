"""The models that are timed: random V-MoEs and dense ViTs of standard sizes, exported to bundles once."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

import vmoe_export
from vmoe_export import export_bundle
from vmoe_export.model.model_config import ModelConfig, MoeConfig
from vmoe_export.model.parameters import graph_shape, parameter_shapes
from vmoe_export.model.torch_model import Vmoe

Array = np.ndarray[Any, np.dtype[Any]]
Kind = Literal["sparse", "dense"]
Precision = Literal["fp32", "bf16", "int8", "bf16-experts"]

_RANDOM_CHECKPOINT = Path(__file__).parents[2] / "samples" / "random_checkpoint.py"
_EXPERTS, _PLACEMENT = 8, "Every 2"
_BALANCING_IMAGES = 8


def _load_random_checkpoint() -> ModuleType:
    """The sample that writes random checkpoints; samples are scripts, so it is found by its path."""
    spec = importlib.util.spec_from_file_location("random_checkpoint", _RANDOM_CHECKPOINT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_random = _load_random_checkpoint()
_SIZES = {  # variant, pixels and classes
    "b16": (_random.VARIANTS["B/16"], 224, 1000),
    "s32": (_random.VARIANTS["S/32"], 224, 1000),
    "tiny": (_random.Variant(64, 4, 128, 4, 4), 28, 10),
}
MODELS = tuple(_SIZES)


@dataclass(frozen=True)
class Setting:
    """A capacity ratio C and the experts per token K."""

    capacity_ratio: float
    k: int

    @property
    def ck(self) -> float:
        """C * K, the share of the tokens that experts have places for."""
        return round(self.capacity_ratio * self.k, 6)

    @property
    def profile(self) -> str:
        """The profile's systematic name."""
        return f"c{self.capacity_ratio!r}-k{self.k}"


def setting_for(ck: float) -> Setting:
    """One expert per token while that makes sense; above, two.

    Example:
        >>> setting_for(0.3), setting_for(2.1)
        (Setting(capacity_ratio=0.3, k=1), Setting(capacity_ratio=1.05, k=2))
    """
    return Setting(ck, 1) if ck <= 1.2 else Setting(ck / 2, 2)


@dataclass(frozen=True)
class Model:
    """A V-MoE and the dense ViT of the same width and depth; bundles are exported when they are first asked for."""

    name: str
    config: ModelConfig
    dense_config: ModelConfig
    folder: Path

    def config_of(self, kind: Kind) -> ModelConfig:
        """The V-MoE or the dense ViT."""
        return self.config if kind == "sparse" else self.dense_config

    def bundle(self, kind: Kind, precision: Precision = "fp32") -> Path:
        """The bundle in a precision; exported where it isn't there, or another exporter made it."""
        path = self.folder / f"{self.name}-{kind}-{precision}.vmoe"
        stamp, exporter = path.with_suffix(".exporter"), _exporter_hash()
        if not (path.exists() and stamp.exists() and stamp.read_text() == exporter):
            options: dict[str, Any] = {"capacity": [0.3], "k": [1], "group": "image"} if kind == "sparse" else {}
            export_bundle(self.checkpoint(kind), path, precision=precision, validate=False, force=True, **options)
            stamp.write_text(exporter)
        return path

    def checkpoint(self, kind: Kind) -> Path:
        """The checkpoint in the official format; written where it isn't there."""
        prefix = self.folder / f"{self.name}-{kind}"
        if not Path(f"{prefix}.index").exists():
            config, make = self.config_of(kind), _random.random_weights(0)
            routers = _balanced_routers(config, make) if config.moe else {}
            shapes = parameter_shapes(config)
            _random.write_checkpoint(prefix, shapes, lambda name, shape: routers.get(name, make(name, shape)), 2)
        return prefix

    def images(self, batch: int) -> Array:
        """Uniform noise, float32[N,H,W,C] in [-1, 1]."""
        return noise_images(self.config, batch)


def noise_images(config: ModelConfig, batch: int) -> Array:
    """Images of uniform noise, float32[N,H,W,C] in [-1, 1]."""
    return np.random.default_rng(0).uniform(-1, 1, (batch, *config.image_size, config.channels)).astype(np.float32)


def prepare(name: str, folder: Path) -> Model:
    """A model of a standard size, with weights N(0, 0.02) and balanced routers, whose files lie in `folder`."""
    variant, pixels, classes = _SIZES[name]
    layers = _random.moe_layers(_PLACEMENT, variant.num_layers)
    folder.mkdir(parents=True, exist_ok=True)
    sparse, dense = (_random.describe(variant, pixels, classes, _EXPERTS, who) for who in (layers, ()))
    return Model(name, sparse, dense, folder)


class _Balancing(Vmoe):
    """Takes the direction of the mean token out of each router before it is used.

    Tokens of a random model have a part in common, more of it in every layer, and a random router sends them where that
    part points. Experts that nobody asks for would make every implementation that skips empty places look too good.
    """

    def _top_k(self, block: str, moe: MoeConfig, x: Tensor, settings: Any) -> tuple[Tensor, ...]:
        router = self._p(f"{block}.Moe.Router.dense.kernel")
        mean = self._layer_norm(f"{block}.LayerNorm_1", x).mean(dim=(0, 1))
        router -= torch.outer(mean, mean @ router) / (mean @ mean)
        return super()._top_k(block, moe, x, settings)


def _balanced_routers(config: ModelConfig, make: Any) -> dict[str, Array]:
    """Routers that use all experts about equally, as training makes them."""
    assert config.moe is not None
    network = _Balancing(config, config.num_tokens)
    tensors = {
        name.replace("/", "."): torch.from_numpy(make(name, shape)).reshape(graph_shape(name, shape))
        for name, shape in parameter_shapes(config).items()
    }
    network.load_state_dict(tensors, assign=True)
    network.requires_grad_(False)
    places = torch.full((len(config.moe.layers),), config.num_tokens)
    one, zero = torch.ones(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    with torch.inference_mode():
        network(
            torch.from_numpy(noise_images(config, _BALANCING_IMAGES)), places, one, one, zero, zero + config.moe.num_experts
        )
    return {f"{name.replace('.', '/')}": p.numpy() for name, p in network.named_parameters() if "Router" in name}


@functools.cache
def _exporter_hash() -> str:
    """Of the exporter's source: a bundle of another exporter would be another model to time."""
    digest = hashlib.sha256()
    for path in sorted(Path(vmoe_export.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
