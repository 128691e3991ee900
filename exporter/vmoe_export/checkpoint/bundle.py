"""Reads a float32 bundle as a checkpoint, so that a model can be exported once more in another precision."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vmoe_export.checkpoint.safetensors_file import SafetensorsCheckpoint
from vmoe_export.errors import CheckpointError
from vmoe_export.model.model_config import ROUTERS, TOLD
from vmoe_runtime.bundle.manifest import MANIFEST_NAME, WEIGHTS_NAME
from vmoe_runtime.bundle.reader import Bundle

_POSITION_EMBEDDING = "Encoder/posembed_input/pos_embedding"


class BundleCheckpoint(SafetensorsCheckpoint):
    """The weights of a bundle, and in `manifest` the settings of its export.

    Args:
        folder: the bundle; every file of it is checked against its SHA-256.

    Raises:
        BundleError: the bundle is damaged or was changed.
        CheckpointError: its weights are not those of the checkpoint any more.
    """

    def __init__(self, folder: Path) -> None:
        # What is opened in here is what was checked; it stays open until the checkpoint is closed.
        with Bundle.open(folder) as bundle:
            precision = bundle.manifest.precision
            if precision != "fp32":
                raise CheckpointError(
                    f"{folder} is a bundle of precision {precision}, and only a float32 bundle can be exported again"
                )
            bundle.verify_weights()
            super().__init__(bundle.file(WEIGHTS_NAME))
        short = next((name for name, info in self.info.items() if info.dtype != np.float32), None)
        if short is not None:
            raise CheckpointError(f"{folder} says that it is float32, but its tensor {short} is {self.info[short].dtype}")
        self.path, self.source, self.format = folder, os.fsencode(folder.name).decode(errors="replace"), "bundle"
        self.manifest = bundle.manifest
        family = self.manifest.model.get("family")
        self.family_title = family if isinstance(family, str) else None
        self._identity = bundle.identity
        if self.manifest.model.get("position_emb") == "sincos2d":
            # Computed at export, and no parameter of the model.
            self.info = {name: info for name, info in self.info.items() if name != _POSITION_EMBEDDING}

    @property
    def config(self) -> dict[str, Any]:
        """The official config of the model, as far as the tensors can't say it."""
        model = self.manifest.model
        moe = _mapping(model, "moe")
        routing = _mapping(moe, "routing")
        kind = self.manifest.rules.kind
        return {
            **{name: model[name] for name in ("classifier", *TOLD) if name in model},
            "encoder": {
                "position_emb": {"name": model.get("position_emb"), "temperature": model.get("position_temperature")},
                "moe": {
                    "ensemble_size": self.manifest.ensemble_size,
                    "router": {
                        "name": None if kind == "dense" else ROUTERS[kind],
                        "normalize_weights": routing.get("normalize_weights"),
                        # It may turn out to be top-K routing, and then it has no k yet.
                        **({} if kind == "experts-choice" else {"num_selected_experts": routing.get("k")}),
                        "dispatcher": {
                            "capacity_factor": routing.get("capacity_ratio"),
                            "capacity_ceil_or_round": routing.get("rounding"),
                            "capacity_multiple_of": routing.get("capacity_multiple_of"),
                            "bfloat16": moe.get("dispatch_bf16"),
                        },
                    },
                },
            },
        }

    def sha256(self) -> str:
        """SHA-256 (hex) over the hashes of the bundle's files, which were checked when it was opened."""
        return self._identity


def _mapping(parent: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = parent.get(key)
    return value if isinstance(value, Mapping) else {}


def is_bundle(path: Path) -> bool:
    """Whether a folder holds what every bundle holds."""
    return (path / MANIFEST_NAME).is_file() and (path / WEIGHTS_NAME).is_file()
