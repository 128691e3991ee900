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
from safetensors import safe_open

import vmoe_export
from cpu.balanced_routers import balance_routers
from vmoe_export import export_bundle
from vmoe_export.model.model_config import ModelConfig
from vmoe_export.model.parameters import parameter_shapes

Array = np.ndarray[Any, np.dtype[Any]]
Kind = Literal["sparse", "dense"]
Precision = Literal["fp32", "bf16", "int8", "bf16-experts"]

_RANDOM_CHECKPOINT = Path(__file__).parents[2] / "samples" / "random_checkpoint.py"
_EXPERTS = 8
_PLACEMENT = "Every 2"
_SEED = 0
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


@dataclass(frozen=True)
class _Size:
    variant: Any
    image_size: int
    num_classes: int


_SIZES = {
    "b16": _Size(_random.VARIANTS["B/16"], 224, 1000),
    "s32": _Size(_random.VARIANTS["S/32"], 224, 1000),
    "tiny": _Size(_random.Variant(64, 4, 128, 4, 4), 28, 10),
}
MODELS = tuple(_SIZES)


@dataclass(frozen=True)
class Setting:
    """One capacity x k: the capacity ratio C and the experts per token K that it is reached with."""

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
    """A V-MoE and the dense ViT of the same size. Their bundles are exported when they are first asked for.

    Attributes:
        name: such as "b16".
        config: the V-MoE.
        dense_config: the ViT of the same width and depth.
        folder: where the checkpoints and bundles are.
    """

    name: str
    config: ModelConfig
    dense_config: ModelConfig
    folder: Path

    @property
    def sparse(self) -> Path:
        """The V-MoE's float32 bundle."""
        return self.bundle("sparse", "fp32")

    @property
    def dense(self) -> Path:
        """The dense ViT's float32 bundle."""
        return self.bundle("dense", "fp32")

    def bundle(self, kind: Kind, precision: Precision) -> Path:
        """The bundle in a precision; exported where it isn't there, or another exporter made it."""
        path = self.folder / f"{self.name}-{kind}-{precision}.vmoe"
        stamp, exporter = path.with_suffix(".exporter"), _exporter_hash()
        if not (path.exists() and stamp.exists() and stamp.read_text() == exporter):
            options: dict[str, Any] = {"capacity": [0.3], "k": [1], "group": "image"} if kind == "sparse" else {}
            checkpoint = self.checkpoint(kind)
            export_bundle(checkpoint, path, precision=precision, validate=False, force=True, **options)
            stamp.write_text(exporter)
        return path

    def checkpoint(self, kind: Kind) -> Path:
        """The checkpoint in the official format; written where it isn't there."""
        prefix = self.folder / f"{self.name}-{kind}"
        if not Path(f"{prefix}.index").exists():
            config = self.config if kind == "sparse" else self.dense_config
            make = _random.random_weights(_SEED)
            if config.moe:
                make = balance_routers(config, make, noise_images(config, _BALANCING_IMAGES))
            _random.write_checkpoint(prefix, parameter_shapes(config), make, 2)
        return prefix

    def images(self, batch: int) -> Array:
        """The images that the model is timed with, float32[N,H,W,C] in [-1, 1]."""
        return noise_images(self.config, batch)


def noise_images(config: ModelConfig, batch: int) -> Array:
    """Images of uniform noise, float32[N,H,W,C] in [-1, 1]."""
    height, width = config.image_size
    shape = batch, height, width, config.channels
    return np.random.default_rng(_SEED).uniform(-1, 1, shape).astype(np.float32)


class Tensors:
    """The float32 tensors of a bundle by official parameter name, read one at a time."""

    def __init__(self, bundle: Path) -> None:
        self._file = safe_open(bundle / "weights.safetensors", framework="np")

    def __getitem__(self, name: str) -> Array:
        tensor: Array = self._file.get_tensor(name)  # type: ignore[no-untyped-call]
        return tensor


def prepare(name: str, folder: Path) -> Model:
    """A model of a standard size, with weights N(0, 0.02) and balanced routers, whose files lie in `folder`."""
    size = _SIZES[name]
    layers = _random.moe_layers(_PLACEMENT, size.variant.num_layers)
    folder.mkdir(parents=True, exist_ok=True)
    sparse, dense = (
        _random.describe(size.variant, size.image_size, size.num_classes, _EXPERTS, who) for who in (layers, ())
    )
    return Model(name, sparse, dense, folder)


@functools.cache
def _exporter_hash() -> str:
    """Of the exporter's source: a bundle of another exporter would be another model to time."""
    digest = hashlib.sha256()
    for path in sorted(Path(vmoe_export.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
