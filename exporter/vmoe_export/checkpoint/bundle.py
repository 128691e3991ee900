"""Read a float32 bundle as a checkpoint. The bundle's model can then be exported in another precision."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vmoe_export.checkpoint.safetensors_file import SafetensorsCheckpoint
from vmoe_export.errors import CheckpointError
from vmoe_export.model.model_config import CONFIG_FIELDS, ROUTERS
from vmoe_runtime.bundle.manifest import MANIFEST_NAME, WEIGHTS_NAME
from vmoe_runtime.bundle.reader import Bundle

_POSITION_EMBEDDING = "Encoder/posembed_input/pos_embedding"


class BundleCheckpoint(SafetensorsCheckpoint):
    """The weights of a bundle, read as a checkpoint. The attribute `manifest` holds the bundle's export settings.

    Args:
        folder: the bundle. Each file is checked against its SHA-256.

    Raises:
        BundleError: the bundle is damaged or was changed.
        CheckpointError: the bundle is not float32, so its weights are not the original weights of the checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        # Open the weights before the bundle is closed, so that the opened file is the file that was checked.
        with Bundle.open(folder) as bundle:
            precision = bundle.manifest.precision
            if precision != "fp32":
                raise CheckpointError(
                    f"{folder} is a bundle of precision {precision}; only float32 bundles can be exported again"
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
            # The exporter computed the sincos2d position embedding. Leave it out, because it is not a parameter of the
            # model.
            self.info = {name: info for name, info in self.info.items() if name != _POSITION_EMBEDDING}

    @property
    def config(self) -> dict[str, Any]:
        """The part of the model's official config that can't be derived from the tensors."""
        model = self.manifest.model
        moe = _mapping(model, "moe")
        routing = _mapping(moe, "routing")
        kind = self.manifest.rules.kind
        return {
            **{name: model[name] for name in ("classifier", *CONFIG_FIELDS) if name in model},
            "encoder": {
                "position_emb": {"name": model.get("position_emb"), "temperature": model.get("position_temperature")},
                "moe": {
                    "ensemble_size": self.manifest.ensemble_size,
                    "router": {
                        "name": None if kind == "dense" else ROUTERS[kind],
                        "normalize_weights": routing.get("normalize_weights"),
                        # Expert choice has no k. Leave out `num_selected_experts`, so that the default k applies if the
                        # option `router` changes the routing to top-k.
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
        """Return the SHA-256 (hex) of the bundle's file hashes, which were checked when the bundle was opened."""
        return self._identity


def _mapping(parent: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = parent.get(key)
    return value if isinstance(value, Mapping) else {}


def is_bundle(path: Path) -> bool:
    """Return whether a folder holds `manifest.json` and the weights file, which every bundle has."""
    return (path / MANIFEST_NAME).is_file() and (path / WEIGHTS_NAME).is_file()
